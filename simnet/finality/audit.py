"""What must hold of the ledger, whatever finality orders: no money appears or vanishes, and all blocks again give the same.

Both count for themselves. ``Conservation`` adds up entries and not the totals that the state keeps; ``Replay`` executes with an
application of its own, which nobody told anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from consensus.state import SUPPLY, Account, State, Validator
from protocol.finality import FinalizedBlock
from protocol.ids import Digest
from protocol.rejection import Rejected
from simnet.finality.genesis import GENESIS_ROOT, GENESIS_STATE, ActorId
from simnet.finality.watch import Broken, Rule, Watch

if TYPE_CHECKING:
    from simnet.finality.members import Member
    from simnet.finality.world import World


class Held(NamedTuple):
    """Where money is, in nano."""

    balances: int
    staked: int
    unbonding: int


def count_money(state: State) -> Held:
    """By looking at every entry that can hold any."""
    entries = [value for tree in state.trees for _, value in tree.items()]
    validators = [entry for entry in entries if isinstance(entry, Validator)]
    return Held(
        balances=sum(entry.balance_nano for entry in entries if isinstance(entry, Account)),
        staked=sum(validator.stake_nano for validator in validators),
        unbonding=sum(entry.amount_nano for validator in validators for entry in validator.unbonding),
    )


class Conservation(Watch):
    """After each final block: what entries hold and what was burned is what genesis gave out, and nothing burned comes back.

    On each side of a fork, where there is one.
    """

    def __init__(self) -> None:
        self.issued_nano = sum(count_money(GENESIS_STATE))
        self._burned_nano: dict[Digest, int] = {}  # after which block

    def executed(self, member: ActorId, block: FinalizedBlock, state: State) -> None:
        header, name = block.header, block.header.digest()
        if name in self._burned_nano:
            return
        held, burned_nano = count_money(state), state.get(SUPPLY).burned_nano
        if sum(held) + burned_nano != self.issued_nano:
            sentence = f"at height {header.height} there are {held} and {burned_nano} burned of {self.issued_nano} nano"
            raise Broken(Rule.NOT_CONSERVED, sentence)
        before_nano = self._burned_nano.get(header.parent, 0)
        if burned_nano < before_nano:
            sentence = f"at height {header.height} {burned_nano} nano are burned, and were {before_nano}"
            raise Broken(Rule.NOT_CONSERVED, sentence)
        self._burned_nano[name] = burned_nano


class Replay(Watch):
    """Every ledger that a member has, executed from genesis without any memo, gives the root in each header.

    Looked at whenever a member reads its disk, and in the end; each time the state that the member holds must have the root of
    its last block. One chain is executed once: what another ledger shares with it, header and body, is not run again.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._blocks: list[FinalizedBlock] = []
        self._begin()

    def _begin(self) -> None:
        self._blocks.clear()
        self._application = self._world.make_application(None)

    def opened(self, member: Member) -> None:
        self._look_at(member, member.application.state)

    def check(self) -> None:
        """In the end: what each member holds, or, of one that stopped, its disk."""
        for member in self._world.members:
            self._look_at(member, member.application.state if member.core is not None else member.disk.read_state())

    def _look_at(self, member: Member, state: State) -> None:
        ledger = member.disk.ledger
        self._run(member.me, ledger)
        root = ledger[-1].header.state_root if ledger else GENESIS_ROOT
        if state.root() != root:
            raise Broken(Rule.NOT_REPLAYED, f"the state of member {member.me} is not that of its height {len(ledger)}")

    def _run(self, me: ActorId, ledger: list[FinalizedBlock]) -> None:
        """Execute what of a ledger was not executed yet; all of it, if it is another chain."""
        if any(not _is_same(ours, theirs) for ours, theirs in zip(self._blocks, ledger, strict=False)):
            self._begin()
        for block in ledger[len(self._blocks) :]:
            header = block.header
            try:
                state = self._application.finalize(block, self._world.sets.roster(header.epoch)).after
            except Rejected as refusal:
                sentence = f"height {header.height} of member {me} does not execute again: {refusal}"
                raise Broken(Rule.NOT_REPLAYED, sentence) from None
            if state.root() != header.state_root:
                raise Broken(Rule.NOT_REPLAYED, f"height {header.height} of member {me} gives another state root")
            self._blocks.append(block)


def _is_same(block: FinalizedBlock, other: FinalizedBlock) -> bool:
    return block is other or (block.header == other.header and block.body == other.body)
