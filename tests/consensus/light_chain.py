"""An honest chain as a light client sees it: an epoch's roster, and any of its blocks with a certificate; and what to break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from msgspec.structs import replace

from consensus.finality.tally import build_certificate
from consensus.light_client import LightClientRule, Trust
from protocol.digest import Domain, digest
from protocol.finality import HEADER_VERSION, ChainId, Header, Vote, VoteKind, vote_text
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, View, VoteKey
from protocol.keys import KeyPair
from protocol.light_client import LightBlock
from protocol.roster import Member, Roster
from simnet.finality.genesis import QuickKey

CHAIN = ChainId(b"test", 0)
EPOCH_HEIGHTS = 8
BLOCK_MS = 1_000
TRUSTING_MS = 14 * 24 * 3_600 * 1_000
RULE = LightClientRule(CHAIN, EPOCH_HEIGHTS, TRUSTING_MS)
STATE_ROOT = digest(Domain.STATE_ROOT, b"sample")
KEYS = [QuickKey(bytes([number + 1]) * 32) for number in range(16)]

Weights = dict[int, int]  # which of the keys votes, and with what weight


def make_roster(epoch: int, weights: Weights, keys: Sequence[KeyPair] = KEYS) -> Roster:
    """The node key of a member is the number of its vote key, so that a roster is in the order of the numbers."""
    members = tuple(Member(PeerId(n.to_bytes(32, "big")), VoteKey(keys[n].public)) for n in sorted(weights))
    beacon = digest(Domain.BEACON, epoch.to_bytes(8, "big"))
    return Roster(Epoch(epoch), members, tuple(weights[n] for n in sorted(weights)), beacon)


@dataclass(slots=True)
class LightChain:
    """``epochs`` says who votes in each; the epoch after the last has the last one's members."""

    epochs: list[Weights]
    keys: Sequence[KeyPair] = field(default_factory=lambda: KEYS)

    def roster(self, epoch: int) -> Roster:
        return make_roster(epoch, self.epochs[min(epoch, len(self.epochs) - 1)], self.keys)

    @property
    def trust(self) -> Trust:
        """Genesis: the founders, and nothing about the next epoch."""
        return Trust(self.roster(0), None, Height(0), 0)

    def header(self, height: int, view: int | None = None) -> Header:
        """The block of a height, without those below it: a light client never asks for them."""
        epoch = (height - 1) // EPOCH_HEIGHTS
        roster = self.roster(epoch)
        return Header(
            version=HEADER_VERSION,
            chain=CHAIN,
            epoch=Epoch(epoch),
            view=View(view if view is not None else (height - 1) % EPOCH_HEIGHTS + 1),
            height=Height(height),
            parent=digest(Domain.BLOCK, b"parent"),
            parent_view=View(0),
            time_ms=height * BLOCK_MS,
            proposer=MemberIndex(0),
            body_root=digest(Domain.BODY, b""),
            body_bytes=0,
            state_root=STATE_ROOT,
            roster=roster.digest(),
            next_roster=self.roster(epoch + 1).digest(),
            beacon=roster.beacon,
            evidence_root=Digest(bytes(32)),
        )

    def block(self, height: int, random: Random | None = None, *, late_views: int = 0) -> LightBlock:
        """A final block. Who of a quorum signed is drawn, or the first that make one; finalized ``late_views`` later."""
        header = self.header(height)
        return self.certify(header, self.roster(header.epoch), random, view=header.view + late_views)

    def certify(
        self, header: Header, roster: Roster, random: Random | None = None, *, view: int | None = None
    ) -> LightBlock:
        """A quorum of ``roster`` that says FINALIZE of this header."""
        numbers = list(range(len(roster.members)))
        if random is not None:
            random.shuffle(numbers)
        signers: list[int] = []
        while not roster.is_quorum(sum(roster.weights[signer] for signer in signers)):
            signers.append(numbers[len(signers)])
        return self.sign(header, roster, signers, view=view)

    def sign(self, header: Header, roster: Roster, signers: Sequence[int], *, view: int | None = None) -> LightBlock:
        """The certificate of these members, quorum or not."""
        at = View(header.view if view is None else view)
        text = vote_text(CHAIN, header.epoch, at, VoteKind.FINALIZE, header.digest())
        votes = [
            Vote(header.epoch, at, VoteKind.FINALIZE, header.digest(), MemberIndex(signer), key.sign(text))
            for signer in signers
            if (key := self.key_of(roster, signer))
        ]
        return LightBlock(header, build_certificate(votes, roster), roster)

    def key_of(self, roster: Roster, signer: int) -> KeyPair:
        return self.keys[int.from_bytes(roster.members[signer].node, "big")]

    def boundary(self, epoch: int) -> LightBlock:
        return self.block((epoch + 1) * EPOCH_HEIGHTS)


def without_roster(block: LightBlock) -> LightBlock:
    """The same step for a reader who holds the roster."""
    return replace(block, roster=None)
