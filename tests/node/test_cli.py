"""The command line: sentences, exit codes, and JSON on the last line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.cli import main
from node.config import CONFIGS, load_settings
from node.genesis_file import read_genesis
from node.keys import load_keys, parse_card
from protocol.ids import peer_text
from storage.io.blob_store import BlobStore
from storage.io.files import DirectoryFiles, DirectoryLock
from storage.io.rocks import RocksKeyValue

PEER_ADDRESS = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWCJFazMChEnEkaVixnUhjUskW9yLqgtynekEF13VJ28wW"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def nocknode(*arguments: object) -> Done:
    """Run one command line to its end, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def process(*arguments: object, **environment: str) -> Done:
    """The same in a process of its own, with its own environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NOCKNODE_")}
    done = subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def facts(done: Done) -> dict[str, object]:
    """The JSON of a command that succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def mistake(*arguments: object) -> str:
    """The sentence of a command that refuses."""
    return sentence(nocknode(*arguments))


def sentence(done: Done) -> str:
    """One sentence on stderr, exit code 2, nothing on stdout, no traceback."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nocknode: ")
    return lines[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("to be or not to be, that is the question\n" * 3000)
    return path


@pytest.fixture(scope="module")
def founded(tmp_path_factory, corpus) -> Path:
    """A data directory of a network of one."""
    root = tmp_path_factory.mktemp("founded") / "node"
    facts(nocknode("init", "--new", "--network", "test", "--corpus", corpus, "--data-dir", root, "--json"))
    return root


def test_help_names_every_command_and_imports_little():
    """--help lists the commands without importing what they need."""
    done = nocknode("--help")
    assert done.returncode == 0
    words = "init start status peers tiles chain validators wallet tx chat doctor keys bench simnet"
    assert [name for name in words.split() if f"\n  {name} " not in done.stdout] == []
    question = (
        "import sys; sys.argv = ['nocknode', 'status', '--help']; from node.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'libp2p', 'trio', 'numpy', 'rich', 'httpx') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_keys_are_made_once_and_shown(tmp_path):
    """`keys new` prints peer and member word; a second one overwrites nothing."""
    made = facts(nocknode("keys", "new", "--data-dir", tmp_path / "a", "--json"))
    card = parse_card(str(made["member"]))
    assert peer_text(card.node) == made["peer"]
    assert facts(nocknode("keys", "show", "--data-dir", tmp_path / "a", "--json")) == made
    assert "not overwritten" in mistake("keys", "new", "--data-dir", tmp_path / "a")


def test_the_environment_names_directory_and_passphrase(tmp_path):
    """Keys made under a passphrase open with it and not with another; exit codes reach the shell."""
    place = {"NOCKNODE_DATA_DIR": str(tmp_path)}
    made = facts(process("keys", "new", "--json", NOCKNODE_PASSPHRASE="word", **place))
    assert facts(process("keys", "show", "--json", NOCKNODE_PASSPHRASE="word", **place)) == made
    assert "does not open" in sentence(process("keys", "show", NOCKNODE_PASSPHRASE="other", **place))


def test_a_founded_directory_holds_everything(founded, corpus):
    """init --new writes keys, genesis, configuration with the network's id, and the shards."""
    settings = load_settings(founded)
    genesis = read_genesis(founded / "genesis.bin", bytes.fromhex(settings.network.id))
    assert genesis.network_name == "testnet"
    assert [founder.card.node for founder in genesis.founders] == [load_keys(founded / "keys").peer]
    index = RocksKeyValue(founded / "db")
    try:
        blobs = BlobStore(DirectoryFiles(founded), index)
        shards = [blobs.find(shard) for shard in genesis.datasets[0].shards]
        assert b"".join(shard for shard in shards if shard is not None) == corpus.read_bytes() + b"\0"
    finally:
        index.close()


def test_members_of_a_network_are_its_roster(tmp_path, corpus):
    """--member adds founders; keys that exist already are kept; round and model are the options'."""
    words = []
    for name in "bc":
        words += ["--member", facts(nocknode("keys", "new", "--data-dir", tmp_path / name, "--json"))["member"]]
    own = facts(nocknode("keys", "new", "--data-dir", tmp_path / "a", "--json"))
    told = facts(
        nocknode(
            *("init", "--new", "--network", "devnet", "--model", CONFIGS / "model" / "nano.toml", "--corpus", corpus),
            *("--round-seconds", 2.5, "--data-dir", tmp_path / "a", "--json", *words),
        )
    )
    assert (told["roster"], told["is_member"], told["peer"]) == (3, True, own["peer"])
    genesis = read_genesis(tmp_path / "a" / "genesis.bin")
    assert genesis.learning.round_ms == 2_500
    assert genesis.model.width == 32
    assert len(genesis.founders) == 3


def test_what_cannot_be_founded_leaves_nothing(tmp_path, corpus):
    """Each mistake is one sentence with its remedy, exit code 2, and no data directory."""
    root = tmp_path / "node"
    new = ("init", "--new", "--network", "test", "--data-dir", root)
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.dat"
    empty.touch()
    binary.write_bytes(bytes(range(256)) * 1000)
    bad_model = tmp_path / "model.toml"
    bad_model.write_text("layers = 2\nhedas = 2\n")
    told = {
        "nowhere": mistake(*new, "--corpus", tmp_path / "nowhere"),
        "empty": mistake(*new, "--corpus", empty),
        "binary": mistake(*new, "--corpus", binary),
        "network": mistake("init", "--new", "--network", "devnt", "--data-dir", root),
        "model": mistake(*new, "--model", bad_model),
        "member": mistake(*new, "--member", "nock1zzz"),
        "seconds": mistake(*new, "--round-seconds", 0),
    }
    words = {
        "nowhere": "name a readable file or folder",
        "empty": "at least 32768 are needed",
        "binary": "not UTF-8 text",
        "network": "did you mean devnet?",
        "model": "line 2: unknown key hedas; did you mean heads?",
        "member": "cut short or mistyped",
        "seconds": "--round-seconds is 0.0, it must be a number from 0.1",
    }
    assert {name: sentence for name, sentence in told.items() if words[name] not in sentence} == {}
    assert not root.exists()


def test_what_cannot_be_joined_leaves_nothing(tmp_path):
    """Addresses and ids are checked before anything is dialled."""
    join = ("init", "--data-dir", tmp_path / "node", "--join")
    assert "not /ip4/HOST/tcp/PORT/p2p/PEER" in mistake(*join, "somewhere", "--network-id", "ab" * 32)
    assert "lacks the peer id" in mistake(*join, "/ip4/127.0.0.1/tcp/1", "--network-id", "ab" * 32)
    assert "--join needs --network-id" in mistake(*join, PEER_ADDRESS)
    assert "64 hexadecimal digits" in mistake(*join, PEER_ADDRESS, "--network-id", "ab")
    assert "either --new, or --join" in mistake("init", "--data-dir", tmp_path / "node")
    assert not (tmp_path / "node").exists()


def test_a_directory_belongs_to_one_network(founded, corpus):
    """A second init is refused, and so is everything while another process holds the directory."""
    new = ("init", "--new", "--network", "test", "--corpus", corpus, "--data-dir")
    assert "belongs to a network already" in mistake(*new, founded)
    with DirectoryLock(founded.parent / "held"):
        assert f"in use by process {os.getpid()}" in mistake(*new, founded.parent / "held")


@pytest.mark.parametrize("command", [("status",), ("peers",), ("tiles",), ("chat", "to be")])
def test_without_a_node_commands_say_how_to_start_one(founded, command):
    """A node that does not run, or was killed, is not a stack trace."""
    assert f"start it with: nocknode start --data-dir {founded}" in mistake(*command, "--data-dir", founded)


def test_start_refuses_mistakes_before_it_loads_anything(founded, tmp_path):
    """Options, configuration and genesis are checked at once."""
    start = ("start", "--data-dir", founded)
    assert "no genesis.bin" in mistake("start", "--data-dir", tmp_path)
    assert "--device is 'gpu'" in mistake(*start, "--device", "gpu")
    assert "--listen: 'x' is no address" in mistake(*start, "--listen", "x")
    assert "--announce: 'x' is no address" in mistake(*start, "--announce", "x")
    assert "--bootstrap" in mistake(*start, "--bootstrap", "/ip4/127.0.0.1/tcp/1")
    assert "--rounds is 0" in mistake(*start, "--rounds", 0)
    assert "did you mean info?" in mistake(*start, "--log-level", "infos")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "genesis.bin").write_bytes((founded / "genesis.bin").read_bytes()[:-1])
    assert "genesis.bin: it is damaged" in mistake("start", "--data-dir", damaged)


def test_a_wrong_command_or_option_is_answered_with_the_nearest():
    """Typing errors are told in one sentence."""
    assert "did you mean status?" in mistake("statsu")
    assert "see nocknode status --help" in mistake("status", "--jsno")


def test_the_doctor_calls_a_sound_directory_good(founded):
    """A founded directory on a machine that can run it: nothing bad, exit code 0."""
    told = facts(nocknode("doctor", "--data-dir", founded, "--json"))
    assert told["ok"]
    assert {finding["subject"] for finding in told["findings"]} >= {
        "python",
        "torch",
        "device",
        "keys",
        "genesis",
        "lock",
    }
