"""Custody, check and certificate together: no certificate is of a tile that a third of the weight can make unreadable."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.availability import AvailabilityTally
from consensus.custody import tile_ring
from protocol.availability import AvailabilityClaim, AvailabilityVote, check_claim, checkpoint_subject
from protocol.coded_tables import check_table, make_tables
from protocol.erasure import Geometry
from protocol.finality import ChainId
from protocol.ids import MemberIndex, Signature
from protocol.limits import KIB
from simnet.finality.genesis import make_keys, make_roster
from storage.erasure.certified import read_certified
from storage.erasure.check import TileCheck
from tests.storage.erasure.samples import blob, code, committed, kernel

GEOMETRY = Geometry(5, 11, KIB)
CHAIN = ChainId(b"nock", 0)
KEYS = make_keys(7)
CODES = [blob(5 * KIB, GEOMETRY, seed) for seed in (1, 2)]


def accept(public: bytes, message: bytes, signature: bytes) -> bool:
    """Signatures are another test's."""
    return True


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=7),
    st.sampled_from(["cells of liars", "any cells", "two codes", "none"]),
    st.integers(0, 2**32),
)
@settings(max_examples=80)
def test_what_is_certified_is_read_from_the_honest_alone(weights: list[int], attack: str, seed: int) -> None:
    """Liars sign whatever they are shown and then give nothing; who is honest signs if all its own cells agree.

    Where that makes a certificate, the cells of those who signed honestly give one content, whichever of them one reads.
    """
    random = Random(seed)
    roster = make_roster(KEYS[: len(weights)], weights=tuple(weights))
    liars: list[int] = []
    for member in random.sample(range(len(weights)), len(weights)):
        if 3 * sum(weights[each] for each in [*liars, member]) < sum(weights):
            liars.append(member)
    (data, _, (tile,)), (_, _, (other,)) = CODES
    cells = [bytes(cell) for cell in tile.cells]
    # The ring follows the root, which follows the cells: the author tries until the cells that it forges are its liars'.
    for _ in range(40):
        forged = {
            "cells of liars": random.sample(range(16), random.randint(1, 3)),
            "any cells": random.sample(range(16), random.randint(1, 16)),
            "two codes": list(range(random.randint(1, 15), 16)),
            "none": [],
        }[attack]
        shown = list(cells)
        for cell in forged:
            shown[cell] = bytes(other.cells[cell]) if attack == "two codes" else random.randbytes(KIB)
        manifest, shards = committed(shown, 5 * KIB, GEOMETRY)
        ring = tile_ring(roster, manifest, 0, roster.beacon)
        held = [ring.cells_of(MemberIndex(member)) for member in range(len(weights))]
        if attack != "cells of liars" or all(set(ring.holders_of(cell)) <= {*liars} for cell in forged):
            break
    check = TileCheck.of(kernel(), manifest, 0)
    root, (plain,) = make_tables(manifest, [check.sums(cells[:5]).tobytes()])
    table = check_table(manifest, root, plain)
    agreeing = {each.checked.shard.cell for each in check.agree(table, shards)}
    claim = AvailabilityClaim(manifest.root, root, GEOMETRY, checkpoint_subject(0, root), roster.epoch, None)
    check_claim(claim, manifest)
    tally = AvailabilityTally(claim, roster, CHAIN, accept)
    honest = [member for member in range(len(weights)) if member not in liars and {*held[member]} <= agreeing]
    for member in [*liars, *honest]:
        tally.add(AvailabilityVote(claim, MemberIndex(member), Signature(bytes(64))))
    if not tally.is_quorum:
        assert attack != "none"
        return
    kept = sorted({cell for member in honest for cell in held[member]})
    assert len(kept) >= 16 // 3 + 1 >= GEOMETRY.data_cells
    for _ in range(3):
        some = [shards[cell] for cell in random.sample(kept, GEOMETRY.data_cells)]
        nonsense = [shards[cell] for cell in forged]
        assert bytes(read_certified(code(GEOMETRY), kernel(), manifest, table, some + nonsense)) == data
