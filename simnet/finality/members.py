"""One honest member: a disk that survives, a machine that does not, an application, and a clock that is a little off.

Effects are performed in order, and a crash may come before, inside or after any of them. While a member is paused nothing
reaches it; what came meanwhile is taken in the same order afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from consensus.finality.chain import check_chain
from consensus.finality.core import FinalityCore
from consensus.finality.epochs import epoch_of_child
from consensus.finality.events import (
    BodyBuilt,
    BodyChecked,
    Effect,
    EpochOpened,
    Event,
    Evidence,
    FetchBlocks,
    Finalized,
    Halt,
    MessageReceived,
    NothingToBuild,
    Nudge,
    Persist,
    RequestBuild,
    RequestCheck,
    Score,
    Send,
    SetTimer,
    Started,
    StoreBlocks,
    Synced,
    TimerFired,
)
from consensus.finality.signer import REFUSALS, VoteSigner
from protocol.codec import decode
from protocol.epochs import is_boundary
from protocol.finality import Certificate, FinalizedBlock, ValidatorMessage
from protocol.ids import Height
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Rejected
from protocol.roster import Roster
from simnet.finality.disk import Disk
from simnet.finality.genesis import CHAIN, ActorId, actor_of, peer_of, quick_verify
from simnet.finality.ledger import Application, Commit, Site
from simnet.finality.payments import draw_transactions
from simnet.finality.watch import Broken, Rule, Watch

if TYPE_CHECKING:
    from simnet.finality.world import World

RESTART_MS: Final = (50, 6_000)
PAUSE_MS: Final = (200, 8_000)
POLL_MS: Final = 1_000  # how often a node that is no member asks for blocks
OPENING_MS: Final = 60  # how long the application may take to say who votes in the next epoch
CUT_AT_RENAME: Final = 0.25  # how often the power fails between a rename and the sync of its directory
CHECK_DEFERRED: Final = 0.1  # while there are faults: how often the application lacks something


@dataclass(frozen=True, slots=True)
class Machine:
    """The parts that are under test. A mutant has a wrong part in place of a right one; the default is right."""

    core: type[FinalityCore] = FinalityCore
    signer: type[VoteSigner] = VoteSigner
    roster: type[Roster] = Roster
    disk: type[Disk] = Disk
    application: type[Application] = Application
    forgets_journal: bool = False


RIGHT: Final = Machine()


class Member:
    """An honest member. ``watch`` sees what it says, stores and finalizes, and touches nothing."""

    def __init__(self, world: World, me: ActorId, watch: Watch, machine: Machine, skew_ms: int = 0) -> None:
        self.world = world
        self.me = me
        self.watch = watch
        self.machine = machine
        self.skew_ms = skew_ms
        self.disk = machine.disk(world.rule)
        self.core: FinalityCore | None = None
        self.height_at_heal = 0
        self.left_behind = False  # it does not come back
        self.application = world.make_application(world.memo)
        self._life = 0
        self._paused_until_ms = 0
        self._active = 0  # events with effects so far

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.left_behind:
            return
        self._life += 1
        self._paused_until_ms = 0  # a new process
        disk, machine, world = self.disk, self.machine, self.world
        if machine.forgets_journal and disk.journal:
            disk.forget()
        self._flip_bits()
        roster, next_roster = world.rosters(disk.epoch)
        records, state = disk.open_journal()
        if state in REFUSALS:
            lost = machine.signer(world.keys[self.me], CHAIN, roster, records, state)
            if not self._begin_journal_anew(lost.compacted()):
                return
            records, state = disk.open_journal()
        signer = machine.signer(world.keys[self.me], CHAIN, roster, records, state)
        records_max = world.options.journal_records_max
        if records_max is not None and len(records) > records_max and not self._begin_journal_anew(signer.compacted()):
            return
        anchor, restored = disk.anchor(), disk.restored()
        self.application = world.make_application(world.memo, disk.read_state(), anchor.block)
        self.core = machine.core(
            peer_of(self.me),
            roster,
            next_roster,
            CHAIN,
            signer,
            world.rule,
            anchor,
            restored=restored,
            verify=quick_verify,
        )
        self.watch.opened(self)
        self.receive(Started())
        world.later(POLL_MS, self._poll, self._life)

    def crash(self) -> None:
        """Stop here; come back later, perhaps without the journal. After the heal nobody crashes."""
        world = self.world
        if self.core is None or not world.chaos:
            return
        self.core = None
        world.note("crash", self.me)
        if world.options.lost_journals and world.may_lose_journal(self):
            self.disk.lose_journal()
        self._wait_for_restart()

    def _wait_for_restart(self) -> None:
        world = self.world
        if world.options.lost_renames and world.random.random() < 0.5:  # the power failed, not the process alone
            self.disk.lose_power()
        world.later(world.random.randrange(*RESTART_MS), self._restart, self._life)

    def _begin_journal_anew(self, records: tuple[bytes, ...]) -> bool:
        """As the real shell: another file, its name, the directory. False: the power failed before that was synced."""
        world = self.world
        self.disk.rename_journal(records)
        if world.chaos and world.options.lost_renames and world.random.random() < CUT_AT_RENAME:
            world.note("crash", self.me)
            self._wait_for_restart()
            return False
        self.disk.sync_directory()
        return True

    def _flip_bits(self) -> None:
        """What the disk did while nobody looked: as a rule nothing, or one bit."""
        world, random_ = self.world, self.world.random
        if not world.chaos or random_.random() >= world.options.bit_flips:
            return
        if random_.random() < 0.7 and self.disk.has_journal_past and world.may_lose_journal(self):
            self.disk.flip_journal_bit(random_)
        elif world.may_lose_rows(self):
            self.disk.flip_row_bit(random_)

    def go_away(self, lasts_ms: int) -> None:
        """Stop and come back much later, with a disk that the others have left behind."""
        if self.core is not None and self.world.chaos:
            self.core = None
            self.world.later(min(lasts_ms, self.world.heal_ms - self.world.now_ms), self._restart, self._life)

    def stop(self) -> None:
        """For ever."""
        self.core = None
        self.left_behind = True
        self.world.note("stop", self.me)

    def pause(self, lasts_ms: int) -> None:
        self._paused_until_ms = min(self.world.now_ms + lasts_ms, self.world.heal_ms)

    def _restart(self, life: int) -> None:
        if self.core is None and life == self._life:
            self.start()

    # -- events -------------------------------------------------------------------------------------------------------

    def hear(self, source: ActorId, message: Any) -> None:
        """A message from the network; bytes are decoded as the node's shell does it."""
        if isinstance(message, bytes):
            try:
                message = decode(ValidatorMessage, message, limit_bytes=FRAME_BYTES_MAX)  # type: ignore[arg-type]  # a union
            except Rejected:
                return
        if self.core is not None:
            self.watch.heard(self.me, message)
        self.receive(MessageReceived(peer_of(source), message))

    def later(self, delay_ms: int, event: Event) -> None:
        """An event that a crash forgets."""
        self.world.later(delay_ms, self._if_same_life, self._life, event)

    def _if_same_life(self, life: int, event: Event) -> None:
        if life == self._life:
            self.receive(event)

    def receive(self, event: Event) -> None:
        """Let the machine handle an event, and perform what it returns, as far as a crash allows."""
        world = self.world
        if self.core is None:
            return
        if self._paused_until_ms > world.now_ms:
            self.later(self._paused_until_ms - world.now_ms, event)
            return
        effects = self.core.handle(event, world.now_ms + self.skew_ms)
        world.note(self.me, type(event).__name__, [type(effect).__name__ for effect in effects])
        position = self._where_it_dies(effects)
        for effect in effects[:position]:
            self._perform(effect)
        if position == len(effects):
            self._maybe_open_epoch(effects)
        else:
            effect = effects[position]
            if world.random.random() < 0.5:
                self.disk.tear(self._execute(effect.blocks) if isinstance(effect, Finalized) else effect, world.random)
            self.crash()

    def _where_it_dies(self, effects: list[Effect]) -> int:
        """The position of the effect that a crash hits; the length if there is none. Writes are hit more often."""
        world, random_ = self.world, self.world.random
        cut, position = world.options.cut, len(effects)
        if effects and cut and world.chaos and random_.random() < cut * len(effects):
            position = random_.randrange(len(effects))
            records = [index for index, effect in enumerate(effects) if isinstance(effect, Persist)]
            if records and random_.random() < 0.5:
                position = records[0]
        if effects and self.me == 0 and world.cut_at is not None and world.chaos:
            self._active += 1
            if self._active == world.cut_at[0]:
                position = min(position, world.cut_at[1])
        return position

    # -- effects ------------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case Persist(records):
                self.disk.append(records)
            case StoreBlocks(_, certificates):
                self.disk.store(effect)
                for certificate in certificates:
                    self.watch.stored(self.me, certificate)
            case Send(to, message):
                self.watch.sent(self.me, message)
                self.say(tuple(map(actor_of, to)), message)
            case SetTimer(timer, at_ms):
                self.later(at_ms - world.now_ms - self.skew_ms, TimerFired(timer))
            case RequestBuild():
                self._build(effect)
            case RequestCheck():
                self._check(effect)
            case Finalized(blocks):
                self._finalize(blocks)
            case FetchBlocks(from_height, target):
                world.later(world.random.randrange(20, 400), self._sync, self._life, from_height, target)
            case Evidence():
                self.watch.accused(self.me, effect)
            case Halt(sentence):
                self.stop()  # only its operator starts it again
                self.watch.halted(self.me, sentence)
            case Score(peer, reason):
                self.watch.blamed(self.me, actor_of(peer), reason)

    def say(self, to: tuple[ActorId, ...], message: ValidatorMessage) -> None:
        """To each of them."""
        for each in to:
            self.world.network.send(self.me, each, message)

    def _maybe_open_epoch(self, effects: list[Effect]) -> None:
        """The application's answer to a boundary block: as a rule at once, so that nothing comes between."""
        final = [effect.blocks[-1].header.height for effect in effects if isinstance(effect, Finalized)]
        if not final or not is_boundary(final[-1], self.world.rule.epoch_heights):
            return
        event = EpochOpened(*self.world.rosters(self.disk.epoch))
        if self.world.chaos and self.world.random.random() < 0.1:
            self.later(self.world.random.randrange(OPENING_MS), event)
        else:
            self.receive(event)

    def _build(self, request: RequestBuild) -> None:
        world, random_ = self.world, self.world.random
        delay_ms = random_.randrange(1, 60)
        has_something = random_.random() < world.options.fullness
        parent = self.application.find_state(request.parent)
        if (has_something or request.even_empty) and parent is not None:
            site = Site(world.sets.roster(request.epoch), request.height, request.time_ms, request.proposer)
            most = world.options.body_bytes_max
            candidates = draw_transactions(random_, parent, most) if has_something else []
            body, root = self.application.build(parent, site, candidates)
            self.later(delay_ms, BodyBuilt(request.epoch, request.view, body, root))
            return
        self.later(delay_ms, NothingToBuild(request.epoch, request.view))
        if random_.random() < 0.3:
            self.later(random_.randrange(100, 500), Nudge())

    def _check(self, request: RequestCheck) -> None:
        header, random_ = request.header, self.world.random
        delay_ms = random_.randrange(1, 60)
        parent = self.application.find_state(header.parent)
        if parent is None:
            raise Broken(Rule.BROKEN, f"member {self.me} was asked to execute a block whose parent it does not know")
        if self.world.chaos and random_.random() < CHECK_DEFERRED:
            self.later(delay_ms, BodyChecked(request.block, None))
            return
        try:
            root = self.application.check(parent, header, self.world.sets.roster(header.epoch), request.body)
        except Rejected as refusal:
            self.later(delay_ms, BodyChecked(request.block, False, None, refusal.reason))
        else:
            self.later(delay_ms, BodyChecked(request.block, True, root))

    def _finalize(self, blocks: tuple[FinalizedBlock, ...]) -> None:
        for block in blocks:
            self.watch.finalized(self.me, block)
        self.disk.finalize(self._execute(blocks))
        self.world.take_note_of_epoch(self.me, self.disk.epoch)

    def _execute(self, blocks: tuple[FinalizedBlock, ...]) -> Commit:
        """What final blocks change of the state."""
        rows = []
        for block in blocks:
            try:
                outcome = self.application.finalize(block, self.world.sets.roster(block.header.epoch))
            except Rejected as refusal:
                sentence = f"height {block.header.height} is final and does not execute at member {self.me}: {refusal}"
                raise Broken(Rule.NOT_REPLAYED, sentence) from None
            self.watch.executed(self.me, block, outcome.after)
            rows.append(outcome.rows())
        return Commit(blocks, tuple(rows))

    def _poll(self, life: int) -> None:
        """A node outside the roster has nobody who sends it anything."""
        if life == self._life and self.core is not None:
            if (
                self.world.sets.place_of(self.me, self.disk.epoch) is None
                and self._paused_until_ms <= self.world.now_ms
            ):
                self._sync(life, Height(len(self.disk.ledger) + 1), None)
            self.world.later(POLL_MS, self._poll, life)

    def _sync(self, life: int, from_height: Height, target: Certificate | None) -> None:
        """The sync protocol of this world: ask members, one after another, for what ``target`` finalizes."""
        if life != self._life or self.core is None:
            return
        world = self.world
        order = [actor for actor in world.actors if world.network.reaches(actor.me, self.me)]
        world.random.shuffle(order)
        for actor in order:
            answer = actor.serve(from_height, target)
            try:
                blocks = check_chain(answer, self.core.roster, CHAIN, world.rule, quick_verify) if answer else ()
            except Rejected:
                continue
            if blocks:
                self.receive(Synced(blocks))
                if is_boundary(
                    blocks[-1].header.height, world.rule.epoch_heights
                ):  # there may be more, of the next epoch
                    following = Height(blocks[-1].header.height + 1)
                    world.later(world.random.randrange(20, 400), self._sync, life, following, None)
                return

    def serve(self, from_height: Height, target: Certificate | None) -> list[FinalizedBlock]:
        """Our side of the sync protocol: our ledger from this height on, within its epoch, as far as it is certified."""
        ledger = self.disk.ledger
        boundary = epoch_of_child(Height(from_height - 1), self.world.rule) * self.world.rule.epoch_heights
        boundary += self.world.rule.epoch_heights
        for height in range(min(len(ledger), boundary), from_height - 1, -1):
            certificate = ledger[height - 1].certificate
            if certificate is not None and (target is None or certificate.view <= target.view):
                return ledger[from_height - 1 : height]
        return []
