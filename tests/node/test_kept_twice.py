"""Who keeps which cells of bytes of which the record speaks more than once, and when they are left alone."""

from __future__ import annotations

from consensus.state import KeptEntry
from node.kept_cells import Custody
from node.services.keeping import still_kept
from protocol.availability import StateCheckpoint, Subject, TileSnapshot
from protocol.erasure import LIVE, make_manifest
from protocol.ids import AccountId, Digest, Epoch, Height, TileId, Version
from tests.consensus.genesis import make_keys, make_roster

ROOT = Digest(b"\x01" * 32)
TABLES = Digest(b"\x02" * 32)
BEACONS = (Digest(b"\x03" * 32), Digest(b"\x04" * 32))
MANIFEST = make_manifest(LIVE, 1_000, (Digest(b"\x05" * 32),))
ROSTER = make_roster(make_keys(13), Digest(b"\x07" * 32))
PEERS = tuple(member.node for member in ROSTER.members)
SNAPSHOT = TileSnapshot(TileId("trunk/0"), Version(1), ROOT)


def entry(beacon: Digest, *, tables: Digest = TABLES, epoch: int = 0, subject: Subject = SNAPSHOT) -> KeptEntry:
    return KeptEntry(
        blob=MANIFEST.root,
        tables=tables,
        geometry=LIVE,
        size_bytes=1_000,
        epoch=Epoch(epoch),
        beacon=beacon,
        kept_until=Epoch(epoch + 16),
        subject=subject,
        author=AccountId(b"\x06" * 32),
        height=1 + epoch,
    )


def test_bytes_that_were_certified_twice_are_kept_by_both_rings() -> None:
    """Whoever signed both keeps what either gives it; readers ask for each cell whoever has it by one of them."""
    one, other = (Custody.of(MANIFEST, [entry(beacon)]) for beacon in BEACONS)
    both = Custody.of(MANIFEST, [entry(BEACONS[0]), entry(BEACONS[1], epoch=1), entry(BEACONS[0], epoch=1)])
    assert both.beacons == BEACONS
    for peer in PEERS:
        duties = [set(custody.duty(peer, ROSTER, 0)) for custody in (one, other)]
        assert duties[0] != duties[1]
        assert set(both.duty(peer, ROSTER, 0)) == duties[0] | duties[1]
    custodians = both.custodians(0, [ROSTER], PEERS)
    for custody in (one, other):
        assert all(
            set(peers) <= set(custodians[cell]) for cell, peers in custody.custodians(0, [ROSTER], PEERS).items()
        )
    assert both.repairers(ROSTER, 0) == one.repairers(ROSTER, 0)


def test_a_record_with_other_tables_gives_no_ring() -> None:
    """It may be of another content: the first that was recorded counts."""
    other = entry(BEACONS[1], tables=Digest(b"\x08" * 32))
    assert Custody.of(MANIFEST, [entry(BEACONS[0]), other]).beacons == BEACONS[:1]


def test_what_is_kept_for_long_is_not_kept_again() -> None:
    """A tile's root counts for half of its time; a state's never does."""
    recorded = [entry(BEACONS[0], epoch=4), entry(BEACONS[0], subject=StateCheckpoint(Height(32), ROOT))]
    assert list(still_kept(recorded, 5)) == [(SNAPSHOT.tile, ROOT)]
    assert list(still_kept(recorded, 12)) == [(SNAPSHOT.tile, ROOT)]
    assert list(still_kept(recorded, 13)) == []
