"""What a start reads from the ledger's blocks, and so how far down the ledger must reach.

    decided_but_not_applied    heads whose tiles are not on disk yet                  until each tile's next version
    counted                    which of our deltas decided heads took                 until the head after each delta's base
    evidence, light clients,   nothing that is read here: blocks of the epoch of      the epoch before the tip's
    peers that fell behind     the tip and of the one before serve them

The rounds that a start shows again (``Node._recall_rounds``) are those whose blocks are there: nothing rests on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from node.ground import DeltaRow, Ground
from protocol.codec import decode
from protocol.epochs import boundary_of, epoch_of
from protocol.finality import Body
from protocol.ids import Digest, Height, TileId
from protocol.limits import BODY_BYTES_MAX
from protocol.roster import Decided, Head
from storage.ledger import Ledger

EPOCHS_KEPT = 2  # the tip's, as far as it has come, and the one before: each 17 to 34 minutes (chain.md 2.7)


def decided_but_not_applied(ground: Ground) -> list[Decided]:
    """Heads that were final before the process ended and whose tiles are not on disk yet, in their order."""
    behind = _behind(ground)
    missing = sum(ground.tile_heads()[tile].version - version for tile, version in behind.items())
    decided: list[Decided] = []
    for height, head in heads_downwards(ground.ledger) if missing else ():
        if head.version > behind.get(head.tile, head.version):
            decided.append(Decided(head.slot, head, height))
            missing -= 1
        if not missing:
            break
    found = {each.slot for each in decided}
    for tile in behind:  # of a node that began with a checkpoint: the blocks of some heads it never had
        newest = ground.tile_heads()[tile].head
        if newest is not None and newest.slot not in found:
            decided.append(Decided(newest.slot, newest, ground.ledger.oldest() or Height(0)))
    return decided[::-1]


def counted(ground: Ground, deltas: Sequence[DeltaRow]) -> set[Digest]:
    """Which of these deltas decided heads list, themselves or inside an aggregate.

    The newest head of a tile knows only its own (learning.md 1).
    A head that takes a delta is one or two versions above its base, so that the walk down the ledger is short.
    """
    lowest = _lowest_bases(ground, deltas, ahead=2)
    names = {row.digest for row in deltas}
    found: set[Digest] = set()
    for _, head in heads_downwards(ground.ledger) if lowest else ():
        found |= names & set(head.counted())
        if head.version <= lowest.get(head.tile, -1) + 1:
            del lowest[head.tile]
        if not lowest:
            break
    return found


def first_needed(ground: Ground) -> Height:
    """The lowest block that must stay: all above may be asked for after a crash at any moment. 1 before there is a block."""
    tip = ground.ledger.tip() or Height(0)
    epoch_heights = ground.genesis.chain.epoch_heights
    kept = boundary_of(epoch_of(tip, epoch_heights) - EPOCHS_KEPT, epoch_heights) + 1 if tip else 1
    # A base whose next head is decided: the one after it is not yet, but will be looked for together with it.
    wanted = _lowest_bases(ground, ground.learner_record().outstanding, ahead=1)
    for tile, version in _behind(ground).items():
        wanted[tile] = min(version, wanted.get(tile, version))
    needed = tip
    for height, head in heads_downwards(ground.ledger) if wanted else ():
        needed = height
        if head.version <= wanted.get(head.tile, -1) + 1:
            del wanted[head.tile]
        if not wanted:
            break
    return Height(max(1, min(kept, needed)))


def heads_downwards(ledger: Ledger, blocks_max: int | None = None) -> Iterator[tuple[Height, Head]]:
    """Every decided head of the newest blocks (None: all that are kept), newest first, with the height of its block."""
    oldest, tip = ledger.oldest(), ledger.tip()
    if oldest is None or tip is None:
        return
    last = oldest if blocks_max is None else max(oldest, tip - blocks_max + 1)
    for height in range(tip, last - 1, -1):
        block = ledger.get(Height(height))
        for head in reversed(decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads):
            yield Height(height), head


def _behind(ground: Ground) -> dict[TileId, int]:
    """The newest version on disk of every tile that was decided further."""
    heads = ground.tile_heads()
    newest = {tile: ground.tiles.newest(tile) or 0 for tile in heads}
    return {tile: version for tile, version in newest.items() if version < heads[tile].version}


def _lowest_bases(ground: Ground, deltas: Sequence[DeltaRow], *, ahead: int) -> dict[TileId, int]:
    """By tile, the lowest base of those deltas whose tile was decided ``ahead`` versions further, or more."""
    heads = ground.tile_heads()
    lowest: dict[TileId, int] = {}
    for row in deltas:
        if heads[row.tile].version >= row.base + ahead:
            lowest[row.tile] = min(row.base, lowest.get(row.tile, row.base))
    return lowest
