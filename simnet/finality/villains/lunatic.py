"""Proposes blocks that cannot be: each header has one field that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from protocol.digest import Domain, digest
from protocol.finality import NO_BLOCK, ChainId, Header
from protocol.ids import Digest, Epoch, Height, MemberIndex, View
from protocol.limits import BODY_BYTES_MAX, CLOCK_SLACK_MS
from simnet.finality.villains.villain import Villain

ELSEWHERE: Final = Digest(b"\xee" * 32)
NO_STATE: Final = digest(Domain.STATE, b"lunatic")
FAR_MS: Final = 10 * CLOCK_SLACK_MS

LIES: Final[dict[str, Callable[[Header], dict[str, Any]]]] = {
    "state": lambda header: {"state_root": NO_STATE},
    "no state": lambda header: {"state_root": NO_BLOCK},
    "height": lambda header: {"height": Height(header.height + 1)},
    "height again": lambda header: {"height": Height(max(0, header.height - 1))},
    "parent": lambda header: {"parent": ELSEWHERE},
    "parent view": lambda header: {"parent_view": View(header.parent_view + 1)},
    "future": lambda header: {"time_ms": header.time_ms + FAR_MS},
    "as late as allowed": lambda header: {"time_ms": header.time_ms + CLOCK_SLACK_MS - 100},  # some clocks say no
    "past": lambda header: {"time_ms": 1},
    "roster": lambda header: {"roster": ELSEWHERE, "next_roster": ELSEWHERE},
    "next roster": lambda header: {"next_roster": ELSEWHERE},
    "beacon": lambda header: {"beacon": ELSEWHERE},
    "evidence": lambda header: {"evidence_root": ELSEWHERE},
    "version": lambda header: {"version": header.version + 1},
    "chain": lambda header: {"chain": ChainId(b"else", 0)},
    "epoch": lambda header: {"epoch": Epoch(header.epoch + 1)},
    "proposer": lambda header: {"proposer": MemberIndex(header.proposer + 1)},
    "body": lambda header: {"body_root": ELSEWHERE},
    "size": lambda header: {"body_bytes": BODY_BYTES_MAX + 1},
}


class Lunatic(Villain):
    """One lie a block; sometimes the others hear a good one."""

    SUMMARY = "proposes headers with one wrong field: state, height, time, roster, beacon and so on"

    def lead(self, view: View) -> None:
        grounds, random_ = self.grounds(view), self.world.random
        if not grounds:
            return
        header = self.make_header(view, grounds[0])
        lie = random_.choice(tuple(LIES))
        lying = self.propose(replace(header, **LIES[lie](header)), grounds[0])
        honest = self.propose(header, grounds[0])
        share = random_.choice((0.0, 0.5))
        for to in self.others:
            self.send(to, honest if random_.random() < share else lying)
