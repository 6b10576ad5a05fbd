"""The genesis document: made once from a template, a corpus and the founders' cards; then only read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Final

from node.config import NetworkTemplate
from protocol.codec import encode
from protocol.digest import Domain, blob_digest, digest, number
from protocol.genesis import MILLION, DatasetManifest, Founder, Genesis, check_genesis
from protocol.ids import NetworkId
from protocol.limits import DATASET_SHARDS_MAX, GENESIS_BYTES_MAX, ROSTER_MEMBERS_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard

MEMBER_BYTES_MAX: Final = 512  # three keys and three signatures: 301 bytes
SHARD_ENTRY_BYTES: Final = 40  # a digest and a size
SHARDS_MAX: Final = min(
    DATASET_SHARDS_MAX, (GENESIS_BYTES_MAX - ROSTER_MEMBERS_MAX * MEMBER_BYTES_MAX - 4096) // SHARD_ENTRY_BYTES
)
"""Shards that fit into the document beside a full roster: 5 GiB of text. A larger corpus is several data sets."""


def read_shards(corpus: Path | None) -> tuple[bytes, ...]:
    """The shards of a file or folder of text (None: the Python standard library's); raises ``Rejected(BAD_CORPUS)``."""
    from compute.data import pack_corpus
    from compute.io.corpus import read_corpus

    shards = tuple(pack_corpus(read_corpus(corpus)))
    if len(shards) > SHARDS_MAX:
        raise Rejected(Reason.BAD_CORPUS, f"it has {len(shards)} MiB, at most {SHARDS_MAX} fit; name a part of it")
    return shards


def found_network(
    template: NetworkTemplate, cards: Sequence[MemberCard], shards: Sequence[bytes], seed: int, created_ms: int
) -> Genesis:
    """The genesis document of a new network that learns ``shards``, founded by the holders of ``cards``.

    The weights of version 0 follow from ``seed`` and the template's name. Raises ``Rejected``: BAD_CONFIG for a shape or rule
    that cannot be, BAD_CORPUS when the split leaves too little on one side, BAD_ARGUMENT for too many members.
    """
    from compute.data import batch_windows, validation_windows

    check_rules(template)
    by_node = {card.node: card for card in cards}
    if len(by_node) > ROSTER_MEMBERS_MAX:
        raise Rejected(Reason.BAD_ARGUMENT, f"{len(by_node)} members are more than {ROSTER_MEMBERS_MAX}")
    manifest = DatasetManifest(
        name=template.dataset_name,
        licence=template.dataset_licence,
        split_micro=template.dataset_split_micro,
        shards=tuple(blob_digest(shard) for shard in shards),
        shard_bytes=tuple(len(shard) for shard in shards),
    )
    # Both sides of the split must hold a window; either raises Rejected(BAD_CORPUS) when it does not.
    context, split_micro = template.model.context, manifest.split_micro
    validation_windows(manifest.root(), 1, context, manifest.shard_bytes, split_micro)
    batch_windows(manifest.root(), 0, b"", 0, 1, context, manifest.shard_bytes, split_micro)
    genesis = Genesis(
        version=1,
        network_name=template.name,
        created_ms=created_ms,
        model=template.model,
        model_seed=digest(Domain.WEIGHTS, template.name.encode(), number(seed)),
        tile_bytes=template.tile_bytes,
        learning=template.learning,
        chain=template.chain,
        ledger=template.ledger,
        founders=tuple(
            Founder(by_node[node], template.founder_stake_nano, template.founder_balance_nano)
            for node in sorted(by_node)
        ),
        datasets=(manifest,),
    )
    return check_genesis(encode(genesis))


def check_rules(template: NetworkTemplate) -> None:
    """Ask those who will follow the rules whether they can; raises ``Rejected(BAD_CONFIG)`` with what there is."""
    from compute.delta.pipeline import get_pipeline
    from compute.merge import MergeRule
    from compute.model.config import check_config
    from compute.outer import OuterRule

    rule = template.learning
    check_config(template.model)
    get_pipeline(rule.delta_pipeline)
    get_pipeline(rule.update_pipeline)
    MergeRule(rule.merge_rule, Fraction(rule.clip_multiple_micro, MILLION))
    OuterRule(rule.outer_rule, Fraction(rule.outer_rate_micro, MILLION), Fraction(rule.outer_momentum_micro, MILLION))


def write_genesis(path: Path, data: bytes) -> None:
    """Write the canonical bytes durably; raises ``OSError``."""
    from storage.io.files import write_file

    write_file(path, [data])


def read_genesis(path: Path, expected: NetworkId | None = None) -> Genesis:
    """Read and check a genesis file; raises ``Rejected(BAD_DATA_DIRECTORY)`` with the remedy, or ``OSError``."""
    try:
        with path.open("rb") as file:
            data = file.read(GENESIS_BYTES_MAX + 1)
    except FileNotFoundError:
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY,
            f"there is no {path.name} in {path.parent}; make a network with `nocknode init --new`, or join one with --join",
        ) from None
    try:
        return check_genesis(data, expected)
    except Rejected as error:
        if error.reason is Reason.FOREIGN_NETWORK:
            why = f"{error.detail}; one of {path.name} and network.id in config.toml was changed"
        else:
            why = f"it is damaged: {error.reason.sentence}"
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY, f"{path}: {why}; fetch it again with `nocknode init --join`"
        ) from None
