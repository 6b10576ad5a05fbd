"""What must hold, in words of its own: these watch what is said, stored and finalized, and never ask a machine.

agreement       one block at each height, each on the one below; nobody halts             unsafe
ancestry        one notarized block a view; every view stepped over was nullified         unsafe
membership      headers name the planned rosters; certificates are theirs, by weight       unsafe
no framing      an honest member says nothing contradictory, is never blamed or accused   framed
durability      a final body is on honest disks of more than a third of the weight        not durable
conservation    accounts, stakes and what was burned are all that there ever was          not conserved   (``audit``)
replay          all blocks again give every header's state root, and every member's       not replayed    (``audit``)
attribution     whoever forks the chain: pairs of votes convict more than a third         unattributed
liveness        after the heal a core of more than two thirds finalizes, all of it        not live
promises        heights each once, bodies whole, memory bounded                           broken
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from consensus.finality.events import Evidence
from consensus.state import State
from protocol.finality import (
    NO_BLOCK,
    Certificate,
    FinalizedBlock,
    Proposal,
    Vote,
    VoteKind,
    body_root,
    vote_text,
)
from protocol.ids import Digest, Epoch, MemberIndex, View
from protocol.rejection import Reason
from protocol.roster import Roster
from simnet.finality.audit import Conservation, Replay
from simnet.finality.genesis import CHAIN, ActorId, actor_of, quick_verify
from simnet.finality.watch import Broken, Rule, Watch

if TYPE_CHECKING:
    from simnet.finality.members import Member
    from simnet.finality.world import World

FINALIZATIONS_MIN: Final = 10
HEIGHTS_APART_MAX: Final = 8  # a villain may keep one member a repair or two behind
BLOCKS_OPEN_MAX: Final = 70  # as many views as are open to votes, and some
CERTIFICATES_OPEN_MAX: Final = 40


class Agreement(Watch):
    """One chain. With too many Byzantine members a fork is no mistake of the machine: then see ``Attribution``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.chain: list[Digest] = []

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        header = block.header
        height, name = int(header.height), header.digest()
        if not 1 <= height <= len(self.chain) + 1 or header.parent != self._name_at(height - 1):
            self._fork(f"height {height} does not extend the finalized chain")
        elif height == len(self.chain) + 1:
            self.chain.append(name)
        elif self.chain[height - 1] != name:
            self._fork(f"two blocks are final at height {height}")

    def _name_at(self, height: int) -> Digest:
        return self.chain[height - 1] if height else NO_BLOCK

    def halted(self, member: ActorId, sentence: str) -> None:
        self._fork(f"member {member} halted: {sentence}")

    def _fork(self, sentence: str) -> None:
        if not self._world.over:
            raise Broken(Rule.UNSAFE, sentence)
        if not self._world.forked:
            self._world.forked = True
            self._world.check_attribution()


class Ancestry(Watch):
    """At most one notarized block a view, and a final block steps over nullified views only.

    A boundary block may be final in a later view than its own: each view between then was nullified, or notarized it again.
    """

    def __init__(self, world: World) -> None:
        self._epoch_heights = world.rule.epoch_heights
        self._notarized: dict[tuple[Epoch, View], Digest] = {}
        self._nullified: set[tuple[Epoch, View]] = set()  # asked only "is it in"

    def stored(self, member: ActorId, certificate: Certificate) -> None:
        at = (certificate.epoch, certificate.view)
        if certificate.kind is VoteKind.NULLIFY:
            self._nullified.add(at)
        elif certificate.kind is VoteKind.NOTARIZE:
            known = self._notarized.setdefault(at, certificate.block)
            if known != certificate.block:
                raise Broken(Rule.UNSAFE, f"two blocks are notarized in view {certificate.view}")

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        header, certificate = block.header, block.certificate
        skipped = [(header.epoch, View(view)) for view in range(header.parent_view + 1, header.view)]
        missing = [view for epoch, view in skipped if (epoch, view) not in self._nullified]
        if missing:
            raise Broken(Rule.UNSAFE, f"views {missing} were stepped over without a nullification")
        if (header.height - 1) % self._epoch_heights == 0 and header.parent_view != 0:
            raise Broken(Rule.UNSAFE, f"the first block of epoch {header.epoch} names view {header.parent_view}")
        if certificate is None or certificate.view == header.view:
            return
        if certificate.view < header.view or header.height % self._epoch_heights:
            raise Broken(
                Rule.UNSAFE, f"height {header.height} of view {header.view} is final in view {certificate.view}"
            )
        name = header.digest()
        for number in range(header.view, certificate.view):
            at = (header.epoch, View(number))
            if at not in self._nullified and self._notarized.get(at) != name:
                raise Broken(Rule.UNSAFE, f"the boundary block was carried over view {number}")


class Membership(Watch):
    """Who votes in an epoch is who was planned to, by the planned weights; counted here from the plan and nothing else."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: set[Certificate] = set()  # asked only "is it in"
        self._digests: dict[int, Digest] = {}

    def stored(self, member: ActorId, certificate: Certificate) -> None:
        if certificate in self._seen:
            return
        self._seen.add(certificate)
        sets, epoch = self._world.sets, certificate.epoch
        weights, held = sets.weights(epoch), 0
        text = vote_text(CHAIN, epoch, certificate.view, certificate.kind, certificate.block)
        for place, signature in zip(signers_of(certificate), certificate.signatures, strict=True):
            actor = sets.find_actor(place, epoch)
            if actor is None or not quick_verify(self._world.keys[actor].public, text, signature):
                raise Broken(Rule.UNSAFE, f"a vote by none of the members of epoch {epoch} was counted")
            held += weights[actor]
        if 3 * held <= 2 * sum(weights):
            raise Broken(Rule.UNSAFE, f"a certificate of epoch {epoch} has {held} of {sum(weights)}")

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        header = block.header
        epoch = (header.height - 1) // self._world.rule.epoch_heights
        planned = [self._plan(epoch), self._plan(epoch + 1)]
        named = [header.roster, header.next_roster]
        if (header.epoch, header.beacon, named) != (epoch, self._world.sets.roster(epoch).beacon, planned):
            raise Broken(
                Rule.UNSAFE, f"height {header.height} does not name the members of epochs {epoch} and {epoch + 1}"
            )

    def _plan(self, epoch: int) -> Digest:
        """The digest of a plain roster, whatever the machines were given."""
        if epoch not in self._digests:
            given = self._world.sets.roster(epoch)
            self._digests[epoch] = Roster(given.epoch, given.members, given.weights, given.beacon).digest()
        return self._digests[epoch]


class NoFraming(Watch):
    """No honest member signs what could convict it, across restarts too; none is accused or blamed."""

    def __init__(self, world: World) -> None:
        self._sets = world.sets
        self._byzantine = world.byzantine
        self._may_be_blamed = world.over  # on a forked chain the two sides find each other wrong
        self._signed: dict[tuple[ActorId, Epoch, View], dict[VoteKind, Digest]] = {}
        self.accused_in: dict[Epoch, list[ActorId]] = {}
        self.re_proposals: set[tuple[Epoch, View]] = set()  # counted, never iterated

    def convicts_a_third(self) -> bool:
        """Whether the evidence that members reported of one epoch is against more than a third of its weight."""
        for epoch, accused in self.accused_in.items():
            weights = self._sets.weights(epoch)
            if 3 * sum(weights[actor] for actor in accused) > sum(weights):
                return True
        return False

    def sent(self, member: ActorId, message: object) -> None:
        vote = message.vote if isinstance(message, Proposal) else message
        if isinstance(message, Proposal) and message.vote.view != message.header.view:
            self.re_proposals.add((message.vote.epoch, message.vote.view))
        if not isinstance(vote, Vote) or self._sets.find_actor(vote.signer, vote.epoch) != member:
            return
        said = self._signed.setdefault((member, vote.epoch, vote.view), {})
        if said.setdefault(vote.kind, vote.block) != vote.block:
            raise Broken(Rule.FRAMED, f"member {member} signed two {vote.kind.name} in view {vote.view}")
        if VoteKind.FINALIZE in said:
            if VoteKind.NULLIFY in said:
                raise Broken(Rule.FRAMED, f"member {member} signed NULLIFY and FINALIZE in view {vote.view}")
            if said.get(VoteKind.NOTARIZE, said[VoteKind.FINALIZE]) != said[VoteKind.FINALIZE]:
                sentence = f"member {member} finalized another block than it notarized in view {vote.view}"
                raise Broken(Rule.FRAMED, sentence)

    def accused(self, member: ActorId, evidence: Evidence) -> None:
        accused = actor_of(evidence.validator)
        known = self.accused_in.setdefault(evidence.first.epoch, [])
        if accused not in known:
            known.append(accused)
        if accused not in self._byzantine:
            raise Broken(Rule.FRAMED, f"evidence against honest member {accused}: {evidence.kind}")

    def blamed(self, member: ActorId, whom: ActorId, reason: Reason) -> None:
        if whom not in self._byzantine and not self._may_be_blamed:
            raise Broken(Rule.FRAMED, f"honest member {whom} was blamed for {reason.name}")


class Durability(Watch):
    """A final body can be read back from honest disks that outweigh whatever Byzantine members claim to hold.

    A finalization has more than two thirds of the weight, and every honest vote in it came after a write (S5): with less
    than a third Byzantine, or with a disk that damages what was written, honest disks of more than a third have the body.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._highest = 0

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        header = block.header
        if body_root(block.body) != header.body_root:
            raise Broken(Rule.BROKEN, f"the body of height {header.height} is another's")
        if header.height <= self._highest:
            return
        self._highest = header.height
        name, weights = header.digest(), self._world.sets.weights(header.epoch)
        holders = [each.me for each in self._world.members if each.disk.wrote(name)]
        held, total = sum(weights[holder] for holder in holders), sum(weights)
        if 3 * (held + self._world.sets.byzantine_weight(header.epoch)) <= 2 * total:
            sentence = (
                f"height {header.height} is final, and honest members {holders} with {held} of {total} wrote its body"
            )
            raise Broken(Rule.NOT_DURABLE, sentence)


class Promises(Watch):
    """What each member promises by itself: every height once, in ascending order."""

    def __init__(self, world: World) -> None:
        self._world = world

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        ledger = self._world.get_member(member).disk.ledger
        if ledger and block.header.height <= ledger[-1].header.height:
            raise Broken(Rule.BROKEN, f"member {member} finalized height {block.header.height} after {len(ledger)}")


# Pairs of votes by one member in one view that no honest member signs (chain.md 2.8): kinds, when the blocks differ.
CONTRADICTIONS: Final = (
    (VoteKind.NOTARIZE, VoteKind.NOTARIZE),
    (VoteKind.FINALIZE, VoteKind.FINALIZE),
    (VoteKind.NULLIFY, VoteKind.FINALIZE),
    (VoteKind.NOTARIZE, VoteKind.FINALIZE),
)


class Attribution(Watch):
    """After a fork: what honest members have heard convicts members of more than a third of the weight."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._said: dict[tuple[ActorId, Epoch, View], list[tuple[VoteKind, Digest]]] = {}

    def heard(self, member: ActorId, message: object) -> None:
        match message:
            case Vote():
                self._keep(message)
            case Certificate():
                self._open(message)
            case Proposal():
                self._keep(message.vote)
                for certificate in (message.parent_certificate, *message.nullifications):
                    if certificate is not None:
                        self._open(certificate)
            case _:
                pass

    def _open(self, certificate: Certificate) -> None:
        for signer, signature in zip(signers_of(certificate), certificate.signatures, strict=False):
            vote = Vote(certificate.epoch, certificate.view, certificate.kind, certificate.block, signer, signature)
            self._keep(vote)

    def _keep(self, vote: Vote) -> None:
        actor = self._world.sets.find_actor(vote.signer, vote.epoch)
        if actor is None:
            return
        said = self._said.setdefault((actor, vote.epoch, vote.view), [])
        if (vote.kind, vote.block) in said:
            return
        text = vote_text(CHAIN, vote.epoch, vote.view, vote.kind, vote.block)
        if quick_verify(self._world.keys[actor].public, text, vote.signature):
            said.append((vote.kind, vote.block))

    def check(self) -> None:
        """Raises ``Broken`` if a third or less is convicted, or an honest member is."""
        convicted: dict[Epoch, list[ActorId]] = {}
        for (actor, epoch, _), said in self._said.items():
            if actor not in convicted.get(epoch, []) and _is_contradictory(said):
                convicted.setdefault(epoch, []).append(actor)
        innocent = [actor for actors in convicted.values() for actor in actors if actor not in self._world.byzantine]
        if innocent:
            raise Broken(Rule.FRAMED, f"what was heard convicts honest members {innocent}")
        for epoch, actors in convicted.items():
            weights = self._world.sets.weights(epoch)
            if 3 * sum(weights[actor] for actor in actors) > sum(weights):
                return
        raise Broken(Rule.UNATTRIBUTED, f"the chain forked, and in no epoch do {convicted} hold more than a third")


def _is_contradictory(said: list[tuple[VoteKind, Digest]]) -> bool:
    """Whether two of one member's votes in one view convict it."""
    return any((kind, other) in CONTRADICTIONS and block != against for kind, block in said for other, against in said)


def signers_of(certificate: Certificate) -> list[MemberIndex]:
    """The places whose bits are set."""
    bits = int.from_bytes(certificate.signers, "little")
    return [MemberIndex(place) for place in range(bits.bit_length()) if bits >> place & 1]


class Checkers(Watch):
    """All of them, in the order in which they are told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.agreement = Agreement(world)
        self.framing = NoFraming(world)
        self.attribution = Attribution(world) if world.over else None
        self.conservation = Conservation()
        self.replay = Replay(world)
        durable = [] if world.machine.forgets_journal else [Durability(world)]  # that mutant forgets its blocks too
        # With more than a third Byzantine a run is about attribution alone.
        sound = [] if world.over else [Membership(world), Ancestry(world)]
        convicting = [self.attribution] if self.attribution is not None else []
        self._all: tuple[Watch, ...] = (
            self.framing,
            Promises(world),
            *convicting,
            *sound,
            self.agreement,
            *durable,
        )
        self._hearing: tuple[Watch, ...] = tuple(convicting)  # most messages interest nobody: one call a message saved

    def heard(self, member: ActorId, message: object) -> None:
        for each in self._hearing:
            each.heard(member, message)

    def sent(self, member: ActorId, message: object) -> None:
        self.framing.sent(member, message)

    def stored(self, member: ActorId, certificate: Certificate) -> None:
        self._world.take_note_of_view(certificate.epoch, certificate.view)
        for each in self._all:
            each.stored(member, certificate)

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        for each in self._all:
            each.finalized(member, block)

    def executed(self, member: ActorId, block: FinalizedBlock, state: State) -> None:
        self.conservation.executed(member, block, state)

    def opened(self, member: Member) -> None:
        self.replay.opened(member)

    def accused(self, member: ActorId, evidence: Evidence) -> None:
        self.framing.accused(member, evidence)

    def blamed(self, member: ActorId, whom: ActorId, reason: Reason) -> None:
        self.framing.blamed(member, whom, reason)

    def halted(self, member: ActorId, sentence: str) -> None:
        self.agreement.halted(member, sentence)


# -- liveness: looked at from time to time, and once in the end ----------------------------------------------------------


def find_stall(core: Sequence[Member], gained_min: int = FINALIZATIONS_MIN) -> str | None:
    """Why the core is not live yet: a member gained too little since the heal, or two are too far apart."""
    for member in core:
        gained = len(member.disk.ledger) - member.height_at_heal
        if gained < gained_min:
            return f"member {member.me} finalized {gained} blocks after the heal"
    heights = [len(member.disk.ledger) for member in core]
    return f"heights {heights} are apart" if max(heights) - min(heights) > HEIGHTS_APART_MAX else None


def check_memory(core: Sequence[Member]) -> None:
    """Whoever is up to date holds little; raises ``Broken``."""
    for member in core:
        numbers = member.core.statistics() if member.core is not None else None
        if numbers is None:
            continue
        if numbers.blocks_open > BLOCKS_OPEN_MAX or numbers.certificates_open > CERTIFICATES_OPEN_MAX:
            raise Broken(Rule.BROKEN, f"memory of member {member.me} grows: {numbers}")
