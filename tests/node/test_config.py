"""Configuration: defaults that work, exact numbers, and mistakes told with their line and the nearest right word."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tomllib
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import (
    CONFIGS,
    MODEL_KEYS,
    NODE_KEYS,
    TEMPLATE_KEYS,
    CrashPoint,
    default_config_text,
    load_model,
    load_settings,
    load_template,
    read_run_settings,
)
from node.toml_table import Key, millionths, read_table, size_bytes, whole
from protocol.rejection import Reason, Rejected

PEER = "/ip4/10.0.0.1/tcp/4001/p2p/12D3KooWCJFazMChEnEkaVixnUhjUskW9yLqgtynekEF13VJ28wW"


def refused_config(tmp_path: Path, text: str) -> str:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(Rejected) as caught:
        load_settings(tmp_path)
    assert caught.value.reason is Reason.BAD_CONFIG
    return caught.value.detail


def refused_template(tmp_path: Path, text: str) -> str:
    path = tmp_path / "net.toml"
    path.write_text(text)
    with pytest.raises(Rejected) as caught:
        load_template(str(path))
    assert caught.value.reason is Reason.BAD_CONFIG
    return caught.value.detail


def test_a_node_without_configuration_has_defaults(tmp_path):
    """Every key has a default: an empty directory gives settings that listen on loopback and may use 20 GiB."""
    settings = load_settings(tmp_path)
    assert settings.network.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert settings.network.announce == ()
    assert settings.storage.storage_bytes_max == 20 << 30
    assert settings.compute.device == "auto"
    assert settings.compute.learn is True
    assert settings.run.rounds is None
    assert settings.places.api_file == tmp_path / "api.json"


def test_the_file_wins_over_defaults_and_options_win_over_the_file(tmp_path):
    """Default, file, option: the last that speaks is right."""
    (tmp_path / "config.toml").write_text(
        '[compute]\nthreads = 3\ndevice = "cpu"\n[storage]\nstorage_bytes_max = "2 GiB"\n'
    )
    settings = load_settings(tmp_path, {"compute.threads": 5, "network.bootstrap": [PEER]})
    assert settings.compute.threads == 5
    assert settings.compute.device == "cpu"
    assert settings.storage.storage_bytes_max == 2 << 30
    assert settings.network.bootstrap == (PEER,)


def test_the_written_configuration_is_read_back(tmp_path):
    """What init writes names every key, with those that were given set and the others commented out."""
    text = default_config_text({"network.id": "ab" * 32, "network.bootstrap": [PEER]})
    (tmp_path / "config.toml").write_text(text)
    settings = load_settings(tmp_path)
    assert settings.network.id == "ab" * 32
    assert settings.network.bootstrap == (PEER,)
    assert all(key.name in text and key.why in text for key in NODE_KEYS)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[compute]\n\nthread = 1", 3, "did you mean compute.threads?"),
        ("[netwrok]\nlisten = []", 1, "unknown key netwrok"),
        ("threads = 1", 1, "did you mean compute.threads?"),
        ("# note\n[compute]\nthreads = 0", 3, "compute.threads is 0, it must be a whole number from 1 to 1024"),
        ("[compute]\nthreads = true", 2, "must be a whole number"),
        ('[compute]\nlearn = "yes"', 2, "must be true or false"),
        ('[log]\nlevel = "inf"', 2, "did you mean info?"),
        ("[log]\nlevel = inf", 2, "must be one of"),
        ('[storage]\nstorage_bytes_max = "20 GB"', 2, 'such as "20 GiB"'),
        ('[network]\nlisten = "/ip4/127.0.0.1/tcp/1"', 2, "must be a list"),
        ('[network]\nlisten = ["/ip4/127.0.0.1/udp/1"]', 2, "no address to listen on"),
        ('[network]\nlisten = ["/ip4/127.0.0.1/tcp/70000"]', 2, "no address to listen on"),
        ('[network]\nannounce = ["/ip4/127.0.0.1/tcp/0"]', 2, "no address to announce"),
        ('[network]\nannounce = ["/ip4/127.0.0.1/tcp/1/p2p/12D3"]', 2, "announce an address alone"),
        ('[network]\nbootstrap = ["/ip4/127.0.0.1/tcp/1"]', 2, "lacks the peer id"),
        ('[api]\nlisten = "0.0.0.0"', 2, "must be an address and a port"),
        ('[api]\nlisten = "::1:80"', 2, "must be an address and a port"),
        ('[api]\nallow_origins = ["https://a.example/path"]', 2, "must be an origin"),
        ('[alerts]\nwebhooks = ["hooks.example.org"]', 2, "must be a URL"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, text, line, words):
    """Unknown keys, wrong types and values out of range name the line, the key and the remedy."""
    detail = refused_config(tmp_path, text)
    assert f"line {line}: " in detail
    assert words in detail


def test_what_is_no_toml_is_told_by_line(tmp_path):
    """Text that is no TOML is refused with the place."""
    assert "line 2" in refused_config(tmp_path, "[compute]\nthreads = \n")


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path):
    """Bytes that are no text, or far too many, are no configuration."""
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Rejected, match="not UTF-8"):
        load_settings(tmp_path)
    (tmp_path / "config.toml").write_bytes(b"#" * 300_000)
    with pytest.raises(Rejected, match="no configuration"):
        load_settings(tmp_path)


def test_a_wrong_option_is_named_as_it_was_typed(tmp_path):
    """An option's mistake names the option, not a line of a file."""
    with pytest.raises(Rejected, match="--device is 'gpu'") as caught:
        load_settings(tmp_path, {"compute.device": "gpu"})
    assert caught.value.reason is Reason.BAD_ARGUMENT


def test_run_options_are_checked():
    """Rounds are counted from one, seconds become milliseconds, crash points name a round."""
    run = read_run_settings(20, 0.25, ("vote-journaled@3",))
    assert (run.rounds, run.round_ms, run.crash_at) == (20, 250, (CrashPoint("vote-journaled", 3),))
    for arguments in [(0, None, ()), (None, 0.0, ()), (None, float("nan"), ()), (None, None, ("3@vote",))]:
        with pytest.raises(Rejected):
            read_run_settings(*arguments)


def test_rates_are_exact_decimals(tmp_path):
    """0.002 is 2,000 millionths, by its text; what does not fit into millionths is refused."""
    path = tmp_path / "net.toml"
    path.write_text(f'model = "{CONFIGS}/model/nano.toml"\n[learning]\nlearning_rate = 2e-3\nbeta1 = 0.999_999\n')
    learning = load_template(str(path)).learning
    assert learning.learning_rate_micro == 2_000
    assert learning.beta1_micro == 999_999
    assert "line 2: learning.beta2 is" in refused_template(tmp_path, "[learning]\nbeta2 = 0.1234567")
    assert "at most six decimal places" in refused_template(tmp_path, "[learning]\nbeta2 = 0.1234567")
    assert "it must be a number" in refused_template(tmp_path, "[learning]\nbeta2 = 1e999999999")
    assert "it must be a number" in refused_template(tmp_path, "[learning]\nbeta2 = nan")


@given(st.decimals(min_value=0, max_value=9, places=6, allow_nan=False))
def test_every_decimal_of_six_places_becomes_its_millionths(value):
    """No decimal of six places is rounded on its way from text to millionths."""
    key = Key("rate", millionths(10), 0, "")
    assert read_table(f"rate = {value:f}\n", [key], "text")["rate"] == Fraction(value) * 1_000_000


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    """Whatever a configuration holds, it gives settings or one Rejected."""
    with contextlib.suppress(Rejected):
        read_table(text, NODE_KEYS, "text")


def test_the_devnet_template_says_the_defaults(tmp_path):
    """configs/devnet.toml spells out the defaults: a template that says nothing is the devnet, but for its short epochs."""
    values = read_table((CONFIGS / "devnet.toml").read_text(), TEMPLATE_KEYS, "devnet")
    defaults = read_table("", TEMPLATE_KEYS, "nothing")
    licence = {"dataset.licence": "PSF-2.0"}  # of the default corpus, which only the devnet's file may claim
    epochs = {"chain.epoch_heights": 64, "chain.history_segment_ticks": 4096}  # a checkpoint while somebody watches
    assert values == defaults | licence | epochs
    assert load_model(CONFIGS / "model" / "tiny.toml") == load_template("devnet").model
    assert read_table("", MODEL_KEYS, "nothing") == msgspec.structs.asdict(load_template("devnet").model)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: path.name)
def test_every_key_of_a_template_has_its_reason(path):
    """Above every key of a file in configs/, or of the group it stands in, there is a comment."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert tomllib.loads(path.read_text())
    for before, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("#") or "=" in before, f"{line!r} has no reason"


def test_strangers_merge_by_agreement_and_friends_by_mean() -> None:
    """The rule of each shipped network; every one of them can be founded."""
    assert [load_template(name).learning.merge_rule for name in ("devnet", "strangers", "test")] == [
        "mean",
        "agreement",
        "mean",
    ]


def test_templates_are_found_by_name_and_path():
    """`devnet` and its path are the same; a wrong name is answered with the nearest."""
    assert load_template("devnet") == load_template(str(CONFIGS / "devnet.toml"))
    with pytest.raises(Rejected, match="did you mean devnet") as caught:
        load_template("configs/devnt.toml")
    assert caught.value.reason is Reason.BAD_ARGUMENT
    with pytest.raises(Rejected, match="one of devnet, strangers, test"):
        load_template("nowhere.toml")


def test_a_template_takes_another_model_and_round():
    """--model and --round-seconds replace what the template says."""
    template = load_template(
        "devnet", model_path=CONFIGS / "model" / "nano.toml", overrides={"learning.round_seconds": 2.5}
    )
    assert template.model.layers == 2
    assert template.learning.round_ms == 2_500
    assert dataclasses.replace(template, name="other").name == "other"


def test_sizes_are_bytes_or_have_binary_units():
    """20 GiB, 512 MiB and plain numbers are sizes; other units are not."""
    read = size_bytes(1)
    assert [read("20 GiB"), read("512MiB"), read(7), read("9")] == [20 << 30, 512 << 20, 7, 9]
    for wrong in ("20 GB", "-1", "1.5 GiB", "", True, None, 0):
        with pytest.raises(ValueError, match="must be"):
            read(wrong)


def test_whole_numbers_are_not_truth_values():
    """true is no number."""
    with pytest.raises(ValueError, match="from 0 to 5"):
        whole(0, 5)(True)
