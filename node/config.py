"""TOML to frozen values: the configuration of one node, and the template from which a network is founded.

`Settings` are one machine's choices: nobody else needs to know them. A `NetworkTemplate` holds what every node of a network
must agree on; `node.genesis_file` turns it into the genesis document, and from then on only that document counts.

Both are tables of keys (`node.toml_table`), each with a default that works on a laptop. Rates are exact decimals and become
integers of millionths; times become integers of milliseconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from node.addresses import (
    check_announced_address,
    check_api_address,
    check_listen_address,
    check_origin,
    check_peer_address,
    check_webhook,
)
from node.data_directory import DataDirectory
from node.toml_table import (
    Key,
    choice,
    flag,
    listed,
    millionths,
    read_table,
    read_toml,
    scaled,
    seconds,
    size_bytes,
    text,
    whole,
    write_table,
)
from protocol.genesis import MILLION, ChainRule, LearningRule, LedgerRule, ModelShape
from protocol.limits import (
    HISTORY_SEGMENTS,
    HISTORY_TICKS_PER_SEGMENT_MAX,
    KIB,
    MIB,
    NANO_PER_NOCK,
    TILE_BYTES_MAX,
    WORK_BITS_MAX,
)
from protocol.rejection import Reason, Rejected

# -- one node ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which network, where to listen, whom to call first."""

    id: str  # 64 hexadecimal digits; empty: whatever genesis.bin says
    listen: tuple[str, ...]  # multiaddrs without a peer id
    announce: tuple[str, ...]  # the same; empty: where we listen
    bootstrap: tuple[str, ...]  # multiaddrs with one
    region: str
    aggregate: bool  # through an aggregator of our region, where the owner is in another
    trusted_block: str  # "HEIGHT:DIGEST", where a newcomer's trust begins; empty: the genesis
    connections: int  # nobody is dialled beyond so many, but for members of the roster


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How much disk."""

    storage_bytes_max: int
    chain_bytes_max: int  # of those
    history: bool


HERE, ELSEWHERE = "here", "elsewhere"  # where experts are


@dataclass(frozen=True, slots=True)
class ComputeSettings:
    """Which device learns, with how many threads, if at all."""

    device: str  # "auto", "cpu", "cuda" or "cuda:N"
    threads: int
    learn: bool
    experts: str  # HERE or ELSEWHERE: where text is generated


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The HTTP API."""

    listen: str  # "IP:PORT"; port 0: the system chooses
    allow_origins: tuple[str, ...]  # of web pages
    answers_kept_mib: int


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """Whether the chain goes on from an emergency recovery."""

    adopt: str  # the digest of recovery.bin; empty: none


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Who is told what deserves attention."""

    webhooks: tuple[str, ...]  # URLs


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How much is told."""

    level: str


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Where a test makes this process kill itself: a named point, in one round."""

    point: str
    round: int


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What only this start of the node says (options; not in the file)."""

    rounds: int | None = None  # stop learning after so many closed rounds, keep serving
    round_ms: int | None = None  # deadline of a round in place of the genesis document's
    crash_at: tuple[CrashPoint, ...] = ()
    from_genesis: bool = False  # fetch and execute every block, where a checkpoint would do
    resync: bool = False  # throw blocks and state away first, and fetch them anew


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that one node's owner may choose."""

    data_dir: Path
    network: NetworkSettings
    storage: StorageSettings
    compute: ComputeSettings
    api: ApiSettings
    alerts: AlertSettings
    log: LogSettings
    recovery: RecoverySettings
    run: RunSettings

    @property
    def places(self) -> DataDirectory:
        return DataDirectory(self.data_dir)


NODE_KEYS: Final = (
    Key(
        "network.id",
        text("|[0-9a-f]{64}", "64 hexadecimal digits in lower case, or empty"),
        "",
        "Digest of genesis.bin. Written by `nocknode init`; a genesis with another digest is refused.",
    ),
    Key(
        "network.listen",
        listed(check_listen_address),
        ["/ip4/127.0.0.1/tcp/0"],
        "Port 0: the system chooses, so that several nodes fit on one machine. For other machines: /ip4/0.0.0.0/tcp/4001.",
        option="--listen",
    ),
    Key(
        "network.announce",
        listed(check_announced_address),
        [],
        "What peers are told to dial, if that is not where we listen: the outside of a port forward, a container, a proxy.",
        option="--announce",
    ),
    Key(
        "network.bootstrap",
        listed(check_peer_address),
        [],
        "Peers to call first, with their peer ids. One that answers is enough: the others are found through it.",
        option="--bootstrap",
    ),
    Key(
        "network.region",
        text("[a-z0-9-]{1,32}", "1 to 32 lower-case letters, digits or hyphens"),
        "local",
        "A label in our advert: peers with the same label are near to each other.",
    ),
    Key(
        "network.aggregate",
        flag,
        True,
        "One peer of a region merges its deltas and sends one to an owner in another. false: every learner sends its own.",
    ),
    Key(
        "network.trusted_block",
        text("|[0-9]{1,18}:[0-9a-f]{64}", "HEIGHT:DIGEST, a number and 64 hexadecimal digits in lower case, or empty"),
        "",
        "HEIGHT:DIGEST of a block that you trust: a node that joins proves everything newer from there. Empty: from the "
        "genesis, which is enough while the network is younger than two weeks.",
    ),
    Key(
        "network.connections",
        whole(1, 1024),
        32,
        "Connections that we look for, besides those to the members of the roster. Others may connect to us.",
    ),
    Key(
        "storage.storage_bytes_max",
        size_bytes(64 * MIB),
        "20 GiB",
        "Room for tiles, updates and shards. A laptop spares this much; the devnet's model needs less than 1 GiB.",
    ),
    Key(
        "storage.chain_bytes_max",
        size_bytes(64 * KIB),
        "8 GiB",
        "Of those, room for finalized blocks: weeks of a busy network. The oldest go first, the last two epochs' never. New "
        "nodes begin with a checkpoint; whoever wants to see every block needs somebody who keeps them all.",
    ),
    Key(
        "storage.history",
        flag,
        True,
        "Fetch the blocks below the checkpoint with which this node began, in the background and as long as there is room: "
        "three quarters of chain_bytes_max. false: newcomers find them elsewhere.",
    ),
    Key(
        "compute.device",
        text("auto|cpu|cuda(:[0-9]{1,3})?", "auto, cpu, cuda or cuda:N"),
        "auto",
        "auto: the fastest by a short benchmark at the start.",
        option="--device",
    ),
    Key(
        "compute.threads",
        whole(1, 1024),
        1,
        "Threads of the learning process. More than one is slower for small models on busy cores (measured: 3 to 18 times).",
        option="--threads",
    ),
    Key("compute.learn", flag, True, "false: keep and serve the model, but train nothing."),
    Key(
        "compute.experts",
        text(f"{HERE}|{ELSEWHERE}", f"{HERE} or {ELSEWHERE}"),
        HERE,
        "elsewhere: this node's answers are computed by the experts of its peers, and it computes none for others.",
        option="--experts",
    ),
    Key(
        "api.listen",
        check_api_address,
        "127.0.0.1:0",
        "HTTP API. Port 0: the system chooses; api.json in the data directory says which. On an address of another interface "
        "whoever calls from elsewhere needs a key (nocknode api-key new NAME).",
        option="--api",
    ),
    Key(
        "api.allow_origins",
        listed(check_origin),
        (),
        "Origins of web pages that may call the API from a browser, such as https://chat.example.org. They need a key besides.",
    ),
    Key(
        "api.answers_kept_mib",
        whole(0, 1 << 20),
        64,
        "MiB of answers, with their prompts, that are kept so that they can be audited (nocknode answers audit). 0: none.",
    ),
    Key(
        "alerts.webhooks",
        listed(check_webhook),
        (),
        "URLs that get a POST of JSON when an alert begins or ends (nocknode alerts), such as https://hooks.example.org/T00/B00.",
    ),
    Key(
        "log.level",
        choice("debug", "info", "warning", "error"),
        "info",
        "Least severe message that is written.",
        "--log-level",
    ),
    Key(
        "recovery.adopt",
        text("|[0-9a-f]{64}", "64 hexadecimal digits in lower case, or empty"),
        "",
        "Digest of the recovery in recovery.bin, with which this node goes on after the chain failed. Whoever writes it has "
        "read `nocknode recovery show`.",
    ),
)

RUN_KEYS: Final = (
    Key("rounds", whole(1, 2**31 - 1), 1, "Rounds after which learning stops.", "--rounds"),
    Key("round_seconds", seconds(86_400), 15, "Deadline of a round.", "--round-seconds"),
)


def load_settings(
    data_dir: Path, overrides: Mapping[str, object] | None = None, run: RunSettings | None = None
) -> Settings:
    """The settings in ``data_dir/config.toml`` (none: defaults), with options on top: ``{"compute.device": "cpu"}``.

    Raises ``Rejected(BAD_CONFIG)`` or, for an option, ``Rejected(BAD_ARGUMENT)``.
    """
    path = DataDirectory(data_dir).config
    source = read_toml(path) if path.exists() else ""
    values = read_table(source, NODE_KEYS, str(path), overrides)
    return Settings(
        data_dir=data_dir,
        network=NetworkSettings(**_section(values, "network")),
        storage=StorageSettings(**_section(values, "storage")),
        compute=ComputeSettings(**_section(values, "compute")),
        api=ApiSettings(**_section(values, "api")),
        alerts=AlertSettings(**_section(values, "alerts")),
        log=LogSettings(**_section(values, "log")),
        recovery=RecoverySettings(**_section(values, "recovery")),
        run=run or RunSettings(),
    )


def default_config_text(values: Mapping[str, object]) -> str:
    """The text of a new config.toml: every key with its reason, commented out unless ``values`` (by place) has it."""
    return write_table(NODE_KEYS, values)


def read_run_settings(
    rounds: int | None = None,
    round_seconds: float | None = None,
    crash_at: tuple[str, ...] = (),
    *,
    from_genesis: bool = False,
    resync: bool = False,
) -> RunSettings:
    """Check the options of one start; ``crash_at`` are texts ``POINT@ROUND``. Raises ``Rejected(BAD_ARGUMENT)``."""
    given = {"rounds": rounds, "round_seconds": round_seconds}
    overrides = {name: value for name, value in given.items() if value is not None}
    values = read_table("", RUN_KEYS, "", overrides)
    return RunSettings(
        rounds=None if rounds is None else values["rounds"],
        round_ms=None if round_seconds is None else values["round_seconds"],
        crash_at=tuple(_crash_point(entry) for entry in crash_at),
        from_genesis=from_genesis,
        resync=resync,
    )


ROUND_DIGITS_MAX: Final = 18  # every round that there can be


def _crash_point(entry: str) -> CrashPoint:
    point, separator, number = entry.partition("@")
    if not (separator and point and number.isascii() and number.isdigit() and len(number) <= ROUND_DIGITS_MAX):
        shown = entry if len(entry) <= 40 else entry[:37] + "..."
        raise Rejected(Reason.BAD_ARGUMENT, f"--crash-at {shown!r} must be POINT@ROUND, such as vote-journaled@3")
    return CrashPoint(point, int(number))


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {place.partition(".")[2]: value for place, value in values.items() if place.startswith(section + ".")}


# -- one network -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NetworkTemplate:
    """What a network is founded with, besides its corpus and its founders."""

    name: str
    model: ModelShape
    tile_bytes: int
    learning: LearningRule
    chain: ChainRule
    ledger: LedgerRule
    founder_stake_nano: int  # what each founder puts at stake, and has besides
    founder_balance_nano: int
    dataset_name: str
    dataset_licence: str
    dataset_split_micro: int


_NAME = text("[a-z0-9][a-z0-9_.-]{0,63}", "a name of lower-case letters, digits, '_', '.' and '-'")

TEMPLATE_KEYS: Final = (
    Key("name", _NAME, "devnet", "What logs and `nocknode status` call the network."),
    Key("model", text(r"\S.*", "the path of a model's TOML file"), "model/tiny.toml", "Beside the template."),
    Key("tile_bytes", whole(4096, TILE_BYTES_MAX), 262_144, "Float32 bytes of a tile's weights."),
    Key("learning.inner_steps", whole(1, 100_000), 6, "AdamW steps of a learner in one round."),
    Key("learning.batch_sequences", whole(1, 65_536), 32, "Sequences in a step."),
    Key("learning.learning_rate", millionths(10, low=1), 0.003, "Peak rate of AdamW."),
    Key("learning.learning_rate_floor", millionths(10), 0.0001, "Where the decay ends."),
    Key("learning.warmup_rounds", whole(0, 1_000_000), 1, "Rounds over which the rate rises."),
    Key("learning.decay_rounds", whole(0, 1_000_000_000), 14, "Rounds over which the rate decays; 0: it does not."),
    Key("learning.beta1", millionths(1), 0.9, "AdamW's first moment."),
    Key("learning.beta2", millionths(1), 0.999, "AdamW's second moment."),
    Key("learning.averaged_batches", whole(1, 4096), 16, "Step as on the mean gradient of so many batches; 1: AdamW."),
    Key("learning.weight_decay", millionths(10), 0.1, "AdamW's decoupled decay."),
    Key("learning.gradient_clip", millionths(1000, low=1), 1, "Largest norm of a step's gradient."),
    Key("learning.balance_loss", millionths(10), 0.01, "Weight of the load-balance loss."),
    Key("learning.delta_pipeline", _NAME, "top10_int4", "How learners compress."),
    Key("learning.update_pipeline", _NAME, "update_int4", "How owners publish."),
    Key("learning.residual_decay", millionths(1), 0.7, "What remains of a residual after a round."),
    Key("learning.residual_start", millionths(1), 0.5, "Share of its residual that a learner begins a round with."),
    Key("learning.merge_rule", _NAME, "mean", "How deltas become one."),
    Key("learning.clip_multiple", millionths(1000, low=1), 3, "Norms are clipped to this multiple of their median."),
    Key("learning.outer_rule", _NAME, "average", "How the merged delta is applied."),
    Key("learning.outer_rate", millionths(100, low=1), 1, "Rate of the outer step."),
    Key("learning.outer_momentum", millionths(1), 0, "Momentum of the outer step."),
    Key("learning.round_seconds", seconds(86_400), 20, "Deadline of a round.", "--round-seconds"),
    Key("learning.validation_sequences", whole(1, 1_000_000), 64, "Sequences of one evaluation."),
    Key("chain.view_delta_ms", whole(10, 8_000), 1000, "Bound on a message's way between two members."),
    Key("chain.block_interval_ms_min", whole(1, 60_000), 50, "From a block to the next."),
    Key("chain.idle_interval_ms", whole(1, 600_000), 1500, "From a block to an empty one."),
    Key("chain.tile_shards", whole(1, 256), 1, "Gossip topics over which heads are spread."),
    Key("chain.epoch_heights", whole(2, 1 << 30), 1024, "Blocks of an epoch: the roster changes between two."),
    Key(
        "chain.history_segment_ticks",
        whole(1, HISTORY_TICKS_PER_SEGMENT_MAX),
        65_536,
        f"Hashes in a row in each of the {HISTORY_SEGMENTS} segments that go into a beacon.",
    ),
    Key("ledger.founder_stake", whole(1, 1_000_000), 10_000, "NOCK that each founder has at stake."),
    Key("ledger.founder_balance", whole(0, 1_000_000), 10_000, "NOCK that each founder has besides."),
    Key("ledger.fee_nano_per_byte", whole(0, NANO_PER_NOCK), 1_000, "Least fee of a transaction, in 10^-9 NOCK."),
    Key("ledger.parameter_work_bits", whole(0, WORK_BITS_MAX), 16, "Proof of work of a parameter record."),
    Key("ledger.dataset_work_bits", whole(0, WORK_BITS_MAX), 21, "Proof of work of a data set's record."),
    Key("dataset.name", _NAME, "corpus", "Name of data set 0."),
    Key(
        "dataset.split", scaled(Fraction(1, 10_000), Fraction(1, 2), MILLION, "millionths"), 0.015625, "For validation."
    ),
    Key("dataset.licence", text(r".{0,64}", "at most 64 characters"), "", "Licence of the text, by its SPDX name."),
)

MODEL_KEYS: Final = (
    Key("vocabulary", whole(258, 1 << 20), 258, "256 bytes, end of document, padding; more are unused."),
    Key("layers", whole(1, 1024), 4, "Blocks of attention and experts."),
    Key("width", whole(2, 1 << 16), 128, "Values of a token's state."),
    Key("heads", whole(1, 1024), 4, "Attention heads."),
    Key("experts", whole(1, 4096), 8, "Experts in a layer."),
    Key("expert_width", whole(1, 1 << 18), 256, "Hidden values of an expert."),
    Key("experts_per_token", whole(1, 64), 2, "Experts that see a token."),
    Key("context", whole(2, 1 << 20), 128, "Tokens of a sequence."),
)

CONFIGS: Final = Path(__file__).resolve().parent.parent / "configs"
_UNITS_OF_FIELDS: Final = {"round_seconds": "round_ms"}  # every other field: the key's own name, or with "_micro"


def load_template(
    name_or_path: str, *, model_path: Path | None = None, overrides: Mapping[str, object] | None = None
) -> NetworkTemplate:
    """A network template by its path, or by the name of one in ``configs/`` (``devnet``).

    ``model_path`` replaces the model that the template names; ``overrides`` are values by place. Raises
    ``Rejected(BAD_ARGUMENT)`` for a template that does not exist, ``Rejected(BAD_CONFIG)`` for a mistake in one.
    """
    path = _find_template(name_or_path)
    values = read_table(read_toml(path), TEMPLATE_KEYS, str(path), overrides)
    ledger = _section(values, "ledger")
    stake_nano, balance_nano = (ledger.pop(name) * NANO_PER_NOCK for name in ("founder_stake", "founder_balance"))
    return NetworkTemplate(
        name=values["name"],
        model=load_model(model_path or path.parent / values["model"]),
        tile_bytes=values["tile_bytes"],
        learning=LearningRule(**_fields(LearningRule, _section(values, "learning"))),
        chain=ChainRule(**_section(values, "chain")),
        ledger=LedgerRule(**ledger),
        founder_stake_nano=stake_nano,
        founder_balance_nano=balance_nano,
        dataset_name=values["dataset.name"],
        dataset_licence=values["dataset.licence"],
        dataset_split_micro=values["dataset.split"],
    )


def load_model(path: Path) -> ModelShape:
    """The shape in a model's TOML file; raises ``Rejected(BAD_CONFIG)``."""
    return ModelShape(**read_table(read_toml(path), MODEL_KEYS, str(path)))


def _find_template(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = sorted(entry.stem for entry in CONFIGS.glob("*.toml"))
    if name_or_path in known:
        return CONFIGS / f"{name_or_path}.toml"
    near = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"name a TOML file, or one of {', '.join(known)}"
    raise Rejected(Reason.BAD_ARGUMENT, f"there is no network template {name_or_path!r}; {hint}")


def _fields(kind: type[LearningRule], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under the names of the fields of ``kind``, which say their units."""
    fields = set(kind.__struct_fields__)
    named = {}
    for name, value in values.items():
        field = _UNITS_OF_FIELDS.get(name, name if name in fields else f"{name}_micro")
        named[field] = value
    return named
