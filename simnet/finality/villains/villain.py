"""What every villain can do: listen, remember certificates and headers, sign whatever it likes, and lead badly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

from msgspec.structs import replace

from consensus.finality.tree import NO_EVIDENCE
from consensus.state import State
from protocol.finality import (
    EMPTY_BODY,
    HEADER_VERSION,
    NO_BLOCK,
    BodyMessage,
    Certificate,
    FinalizedBlock,
    Header,
    Proposal,
    ValidatorMessage,
    Vote,
    VoteKind,
    Want,
    body_root,
    vote_text,
)
from protocol.ids import Digest, Epoch, Height, MemberIndex, View
from protocol.rejection import Rejected
from protocol.transactions import SignedTransaction
from simnet.finality.genesis import CHAIN, GENESIS_ROOT, ActorId
from simnet.finality.ledger import Site
from simnet.finality.payments import draw_transactions

if TYPE_CHECKING:
    from simnet.finality.world import World

VIEWS_REMEMBERED_MAX: Final = 200
PARENTS_KNOWN_MAX: Final = 4
HEADERS_REMEMBERED_MAX: Final = 400
BODIES_REMEMBERED_MAX: Final = 16


class Actor(Protocol):
    """Whoever holds a key of the roster."""

    me: ActorId

    def start(self) -> None:
        """The world begins."""

    def hear(self, source: ActorId, message: Any) -> None:
        """A message, or bytes."""

    def serve(self, from_height: Height, target: Certificate | None) -> list[FinalizedBlock]:
        """An answer of the sync protocol; empty for none."""


class Ground(NamedTuple):
    """Something to build on: the block before the epoch's first, if both are None."""

    certificate: Certificate | None
    header: Header | None


class Villain:
    """Silent as it is; its kinds override what they do better."""

    SUMMARY: ClassVar[str] = ""
    TICK_MS: ClassVar[tuple[int, int]] = (200, 900)

    def __init__(self, world: World, me: ActorId) -> None:
        self.world = world
        self.me = me
        self.certificates: dict[View, dict[VoteKind, Certificate]] = {}
        self.headers: dict[Digest, Header] = {}
        self.bodies: dict[Digest, bytes] = {}  # of its own blocks, by their roots
        self.application = world.make_application(world.memo)
        self.epoch = Epoch(0)
        self.place = MemberIndex(0)  # in the roster: the last one that it had
        self._led = View(0)
        self._said: set[tuple[Epoch, View, VoteKind, Digest]] = set()  # asked only "is it in"
        self._take_place()

    # -- what a kind overrides ----------------------------------------------------------------------------------------

    def on_vote(self, vote: Vote) -> None:
        """Somebody's vote was heard."""

    def on_view(self, view: View) -> None:
        """A higher view began, as far as it knows."""

    def lead(self, view: View) -> None:
        """It is the leader of a view that began."""

    def leave_epoch(self) -> None:
        """The epoch is over; what was learned in it is forgotten next."""

    def tick(self) -> None:
        """Now and then."""

    def serve(self, from_height: Height, target: Certificate | None) -> list[FinalizedBlock]:
        return []

    # -- what it hears ------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return View(max(self.certificates, default=0) + 1)

    def start(self) -> None:
        self.world.later(100, self._tick)

    def hear(self, source: ActorId, message: Any) -> None:
        self._follow()
        before = self.view
        match message:
            case Certificate():
                self._learn(message)
            case Proposal():
                self._remember(message.header)
                for certificate in (message.parent_certificate, *message.nullifications):
                    if certificate is not None:
                        self._learn(certificate)
                self.on_vote(message.vote)
            case Vote():
                self.on_vote(message)
            case Want(blocks):
                self._show(source, blocks)
            case _:
                pass
        if self.view > before:
            self.on_view(self.view)
        self._maybe_lead()

    def _tick(self) -> None:
        self._follow()
        self.tick()
        self._maybe_lead()
        self.world.later(self.world.random.randrange(*self.TICK_MS), self._tick)

    def _follow(self) -> None:
        """Be in the epoch that the first of the honest are in: it need not check what it hears."""
        if self.epoch < self.world.epoch:
            self.leave_epoch()
            self.epoch = self.world.epoch
            self.certificates, self._led = {}, View(0)
            self._take_place()

    def _take_place(self) -> None:
        place = self.world.sets.place_of(self.me, self.epoch)
        self.place = self.place if place is None else place

    def _maybe_lead(self) -> None:
        view = self.view
        if view > self._led and self.world.sets.leader(self.epoch, view) == self.me:
            self._led = view
            self.lead(view)

    def _learn(self, certificate: Certificate) -> None:
        if certificate.epoch != self.epoch:
            return
        self.certificates.setdefault(certificate.view, {})[certificate.kind] = certificate
        if len(self.certificates) > VIEWS_REMEMBERED_MAX:
            del self.certificates[min(self.certificates)]

    def _remember(self, header: Header) -> None:
        self.headers[header.digest()] = header
        if len(self.headers) > HEADERS_REMEMBERED_MAX:
            del self.headers[next(iter(self.headers))]

    def _show(self, to: ActorId, blocks: tuple[Digest, ...]) -> None:
        """Bodies of its own that somebody asks for: what it proposed was meant to be seen."""
        for block in blocks:
            for body in self._bodies_of(block):
                self.send(to, body)

    def _bodies_of(self, block: Digest) -> list[BodyMessage]:
        """The body of a block of its own that has one."""
        header = self.headers.get(block)
        body = self.bodies.get(header.body_root) if header else None
        return [] if body is None else [BodyMessage(block, body)]

    # -- what it may say ----------------------------------------------------------------------------------------------

    @property
    def others(self) -> list[ActorId]:
        return [ActorId(index) for index in range(self.world.count) if index != self.me]

    def somebody(self) -> ActorId:
        return self.world.random.choice(self.others) if self.world.count > 1 else self.me

    def send(self, to: ActorId, message: ValidatorMessage | bytes) -> None:
        for each in self._with_body(message):
            self.world.network.send(self.me, to, each)

    def broadcast(self, message: ValidatorMessage | bytes) -> None:
        for each in self._with_body(message):
            self.world.network.broadcast(self.me, each)

    def _with_body(self, message: ValidatorMessage | bytes) -> list[ValidatorMessage | bytes]:
        """With a proposal of a block of its own goes the body."""
        return [message, *self._bodies_of(message.vote.block)] if isinstance(message, Proposal) else [message]

    def vote(self, view: View, kind: VoteKind, block: Digest = NO_BLOCK) -> Vote:
        text = vote_text(CHAIN, self.epoch, view, kind, block)
        return Vote(self.epoch, view, kind, block, self.place, self.world.keys[self.me].sign(text))

    def find_new_vote(self, view: View, kind: VoteKind, block: Digest) -> Vote | None:
        """A vote that this was not asked for before; two villains that echo each other would never end."""
        if (self.epoch, view, kind, block) in self._said or (kind is VoteKind.NULLIFY) != (block == NO_BLOCK):
            return None
        self._said.add((self.epoch, view, kind, block))
        return self.vote(view, kind, block)

    def second(self, vote: Vote) -> None:
        """Tell everybody that it votes the same, once; giving a view up is left to the others."""
        mine = self.find_new_vote(vote.view, vote.kind, vote.block) if vote.kind is not VoteKind.NULLIFY else None
        if mine is not None:
            self.broadcast(mine)

    def grounds(self, view: View) -> list[Ground]:
        """What a block of ``view`` could be built on, the newest first; some of it without right."""
        found: list[Ground] = []
        for at in sorted(self.certificates, reverse=True):
            certificate = self.certificates[at].get(VoteKind.NOTARIZE) or self.certificates[at].get(VoteKind.FINALIZE)
            if certificate is not None and certificate.block in self.headers and at < view:
                found.append(Ground(certificate, self.headers[certificate.block]))
            if len(found) == PARENTS_KNOWN_MAX:
                return found
        if view < 5:
            found.append(Ground(None, None))
        return found

    def find_parent(self, ground: Ground) -> Header | None:
        """The header of what is built on; None: genesis."""
        boundary = self.world.boundary(self.epoch)
        return ground.header or (boundary.header if boundary else None)

    def parent_root(self, ground: Ground) -> Digest:
        """The state root of what is built on."""
        parent = self.find_parent(ground)
        return parent.state_root if parent else GENESIS_ROOT

    def make_header(self, view: View, ground: Ground, copy: int = 0) -> Header:
        """A block on this ground that breaks no rule by itself, its body as an honest one; ``copy`` makes another one."""
        world, sets, above = self.world, self.world.sets, self.find_parent(ground)
        time_ms = max(world.now_ms, above.time_ms if above else 0) + 1 + copy
        site = Site(sets.roster(self.epoch), Height(above.height + 1 if above else 1), time_ms, self.place)
        body, state_root = self._make_body(self.parent_root(ground), site)
        return Header(
            version=HEADER_VERSION,
            chain=CHAIN,
            epoch=self.epoch,
            view=view,
            height=site.height,
            parent=above.digest() if above else NO_BLOCK,
            parent_view=ground.header.view if ground.header else View(0),
            time_ms=time_ms,
            proposer=self.place,
            body_root=self.keep_body(body),
            body_bytes=len(body),
            state_root=state_root,
            roster=sets.roster(self.epoch).digest(),
            next_roster=sets.roster(self.epoch + 1).digest(),
            beacon=sets.roster(self.epoch).beacon,
            evidence_root=NO_EVIDENCE,
        )

    def _make_body(self, parent_root: Digest, site: Site) -> tuple[bytes, Digest]:
        """What an honest leader would build. A state that nobody has seen lately is one of its own making: then anything."""
        world, parent = self.world, self.world.memo.find_state(parent_root)
        if parent is None:
            return EMPTY_BODY, parent_root
        has_something = world.random.random() < world.options.fullness
        most = world.options.body_bytes_max
        candidates = draw_transactions(world.random, parent, most) if has_something else []
        return self.build(parent, site, candidates)

    def build(self, state: State, site: Site, candidates: Sequence[SignedTransaction]) -> tuple[bytes, Digest]:
        """A body and the root after it; above a boundary, where this epoch may have no block, the empty one."""
        try:
            return self.application.build(state, site, candidates)
        except Rejected:
            return EMPTY_BODY, state.root()

    def keep_body(self, body: bytes) -> Digest:
        """Remember a body that goes along with its proposal; its root. Everybody knows the empty one."""
        root = body_root(body)
        if body != EMPTY_BODY:
            self.bodies[root] = body
        if len(self.bodies) > BODIES_REMEMBERED_MAX:
            del self.bodies[next(iter(self.bodies))]
        return root

    def propose_again(self, view: View, ground: Ground) -> Proposal | None:
        """The block of this ground as it is, in a later view: what is right for a boundary block only."""
        certificate, header = ground
        if header is None or certificate is None:
            return None
        between = [self.certificates.get(View(at), {}) for at in range(certificate.view + 1, view)]
        skipped = tuple(held[VoteKind.NULLIFY] for held in between if VoteKind.NULLIFY in held)
        return Proposal(header, certificate, skipped, self.vote(view, VoteKind.NOTARIZE, header.digest()))

    def is_boundary(self, ground: Ground) -> bool:
        return ground.header is not None and ground.header.height % self.world.rule.epoch_heights == 0

    def propose(self, header: Header, ground: Ground, **changes: Any) -> Proposal:
        """The header with the nullifications that are at hand, and our vote for it; then ``changes`` of the proposal."""
        block = header.digest()
        self._remember(header)
        between = [self.certificates.get(View(at), {}) for at in range(header.parent_view + 1, header.view)]
        skipped = tuple(held[VoteKind.NULLIFY] for held in between if VoteKind.NULLIFY in held)
        vote = self.vote(header.view, VoteKind.NOTARIZE, block)
        return replace(Proposal(header, ground.certificate, skipped, vote), **changes)

    def lead_well(self, view: View) -> None:
        """As an honest leader would."""
        grounds = self.grounds(view)
        again = self.propose_again(view, grounds[0]) if grounds and self.is_boundary(grounds[0]) else None
        if again is not None:
            self.broadcast(again)
        elif grounds:
            self.broadcast(self.propose(self.make_header(view, grounds[0]), grounds[0]))
