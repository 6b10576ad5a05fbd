"""Golden bytes: formats change by decision (`make vectors-approve`), never by accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.codec import decode, encode
from protocol.digest import Domain, digest
from protocol.envelope import SequenceWindows, open_envelope
from protocol.genesis import Genesis, check_genesis
from protocol.ids import NetworkId, parse_peer
from protocol.keys import verify

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "vectors" / "protocol"


def stored(name: str) -> dict:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_the_code_makes_the_golden_bytes_under_any_hash_seed(hash_seed: str) -> None:
    """No order of a set or a dictionary enters a format. A difference is approved by `make vectors-approve`, or is a bug."""
    answer = subprocess.run(
        [sys.executable, "-m", "tools.vectors", "--print"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    )
    made = json.loads(answer.stdout)
    assert sorted(made) == sorted(path.name for path in FOLDER.glob("*.json"))
    for name, text in made.items():
        assert json.loads(text) == stored(name), f"{name} changed: see `make vectors`, decide, `make vectors-approve`"


def test_every_domain_has_a_vector() -> None:
    """A new word brings one, and a stored digest is what the word gives."""
    words = {word for name, word in vars(Domain).items() if name.isupper()}
    vectors = stored("digest.json")
    assert set(vectors) == words
    for word, cases in vectors.items():
        for case in cases:
            assert digest(word, *map(bytes.fromhex, case["parts"])).hex() == case["digest"]


def test_stored_keys_are_those_of_rfc_8032() -> None:
    """The first vector's key is the one that every implementation derives from a seed of zeros."""
    vectors = stored("keys.json")
    assert vectors["00" * 32]["public"] == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    for entry in vectors.values():
        public = bytes.fromhex(entry["public"])
        assert parse_peer(entry["peer"]) == public
        assert verify(public, b"nock", bytes.fromhex(entry["signature of 'nock'"]))


def test_stored_envelopes_open() -> None:
    """What was sealed in the past is understood today."""
    for entry in stored("envelope.json").values():
        now_ms = max(0, entry["expires_ms"])
        envelope = open_envelope(bytes.fromhex(entry["envelope"]), NetworkId(bytes(32)), now_ms, SequenceWindows())
        assert (envelope.kind, envelope.sequence) == (entry["kind"], entry["sequence"])
        assert envelope.payload.hex() == entry["payload"]


def test_the_stored_genesis_is_accepted_under_its_stored_id() -> None:
    """A network founded in the past can be joined today."""
    vectors = stored("genesis.json")
    document = bytes.fromhex(vectors["document"])
    genesis = check_genesis(document, NetworkId(bytes.fromhex(vectors["network id"])))
    assert encode(genesis) == document
    assert decode(Genesis, document, limit_bytes=len(document)) == genesis
