"""Who keeps what of a blob, and what an offer gives: the parts of custody that need no network."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from node.coded_offer import CodedOffer, CodedTiles, code_offer
from node.kept_cells import PEER_CELLS, Custody, open_kernel_once
from protocol.availability import AvailabilityClaim, TileSnapshot, kept_until
from protocol.coded_tables import check_table
from protocol.digest import blob_digest
from protocol.erasure import LIVE, CheckedManifest
from protocol.ids import Digest, Epoch, PeerId, TileId, Version
from storage.erasure.code import ErasureCode
from storage.erasure.tile import check_shard, rebuild_tile
from tests.protocol.samples import roster

ROSTER = roster(1, 1, 2, 1)
SUBJECT = TileSnapshot(TileId("trunk/0"), Version(7), blob_digest(b"root"))
CODE = ErasureCode(open_kernel_once(), LIVE)
DATA = memoryview(bytes(range(256)) * 8)


def offer(data: memoryview = DATA) -> CodedOffer:
    def claim_of(manifest: CheckedManifest, tables: Digest) -> AvailabilityClaim:
        return AvailabilityClaim(manifest.root, tables, LIVE, SUBJECT.digest(), Epoch(0), kept_until(0))

    return code_offer(open_kernel_once(), CODE, data, claim_of)


def custody(made: CodedOffer) -> Custody:
    return Custody(made.manifest, made.claim.tables, (ROSTER.beacon,))


def test_an_offer_is_what_holders_check() -> None:
    """Its tables lead to the claim's root, its cells to the manifest's, and any that are enough are the data again."""
    made = offer()
    assert made.claim.blob == made.manifest.root
    assert [check_table(made.manifest, made.claim.tables, table).tile for table in made.tables] == [0]
    tiles = CodedTiles(CODE)
    coded = tiles.of(made, 0)
    assert tiles.of(made, 0) is coded
    shards = [check_shard(made.manifest, coded.checked(cell).shard) for cell in range(192, 256)]
    assert rebuild_tile(CODE, made.manifest, 0, shards).data == DATA
    with pytest.raises(IndexError):
        tiles.of(made, 1)


def test_every_cell_has_a_custodian_as_long_as_the_members_are_there() -> None:
    """Members by the ring; who does not vote by its name; who is not there is not asked."""
    kept = custody(offer())
    nodes = [member.node for member in ROSTER.members]
    stranger = PeerId(blob_digest(b"stranger"))
    everybody = kept.custodians(0, [ROSTER], [*nodes, stranger])
    assert sorted(everybody) == list(range(LIVE.cells))
    for node in nodes:
        assert sorted(kept.duty(node, ROSTER, 0)) == [cell for cell in everybody if node in everybody[cell]]
    assert len(kept.duty(stranger, ROSTER, 0)) == PEER_CELLS
    assert sorted(kept.duty(stranger, ROSTER, 0)) == [cell for cell in everybody if stranger in everybody[cell]]
    without = kept.custodians(0, [ROSTER], nodes[1:])
    assert all(nodes[0] not in holders for holders in without.values())
    assert 64 <= len(without) < LIVE.cells


def test_another_epochs_beacon_moves_no_cell() -> None:
    """The order is that of the epoch which certified the blob; only weights move cells from then on."""
    kept = custody(offer())
    later = replace(ROSTER, epoch=Epoch(1), beacon=blob_digest(b"the next beacon"))
    for member in ROSTER.members:
        assert kept.duty(member.node, ROSTER, 0) == kept.duty(member.node, later, 0)
    assert kept.repairers(ROSTER, 0) == kept.repairers(later, 0)
    assert sorted(kept.repairers(ROSTER, 0)) == sorted(member.node for member in ROSTER.members)
