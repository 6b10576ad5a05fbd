"""What every run begins with: keys, roster, rules, and the first state of the ledger.

Signatures are hashes, a thousand times faster than Ed25519: villains of ours do not forge, and nothing here is secret.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Final, NewType

from msgspec.structs import replace

from consensus.finality.events import Anchor
from consensus.state import State, all_rows, genesis_state
from protocol.codec import encode
from protocol.digest import Domain, blob_digest, digest
from protocol.finality import NO_BLOCK, ChainId
from protocol.genesis import ChainRule, LedgerRule
from protocol.ids import AccountId, Epoch, PeerId, Signature, VoteKey
from protocol.keys import KeyPair
from protocol.roster import Member, MemberCard, Roster
from protocol.transactions import MetaVersion, SemVer

ActorId = NewType("ActorId", int)  # whoever holds a key, by its number; its place in a roster is another number
DELTA_MS: Final = 1_000
GENESIS_MS: Final = 1_000_000
CHAIN: Final = ChainId(b"test", 0)
RULE: Final = ChainRule(
    view_delta_ms=DELTA_MS, block_interval_ms_min=300, idle_interval_ms=600, tile_shards=1, epoch_heights=1_024
)
# Stake is free again within a run, and evidence too old: money is seen in every place where it can be.
LEDGER_RULE: Final = LedgerRule(
    fee_nano_per_byte=1,
    stake_nano_min=1_000,
    unbonding_ms=4_000,
    unbonding_heights=9,
    evidence_ms=3_900,
    evidence_heights=8,
    correlation_ms=1_000,
    parameter_work_bits=0,
    dataset_work_bits=0,
)


class QuickKey(KeyPair):
    """A key whose signatures are hashes."""

    __slots__ = ()

    def sign(self, message: bytes) -> Signature:
        return quick_signature(self.public, message)


def quick_signature(public: bytes, message: bytes) -> Signature:
    return Signature(hashlib.sha512(public + message).digest())


def quick_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    return signature == quick_signature(public, message)


def make_keys(count: int, kind: type[KeyPair] = QuickKey) -> list[KeyPair]:
    """The vote keys of the first actors."""
    return [kind(vote_seed(index)) for index in range(count)]


def vote_seed(actor: int) -> bytes:
    return bytes([actor + 1]) * 32


def peer_of(actor: int) -> PeerId:
    """The node key of an actor: ascending with its number."""
    return PeerId(bytes([actor]) * 32)


def actor_of(peer: PeerId) -> ActorId:
    return ActorId(peer[0])


def make_roster(
    keys: list[KeyPair],
    kind: type[Roster] = Roster,
    weights: tuple[int, ...] | None = None,
    beacon: bytes = b"test",
    epoch: int = 0,
    actors: Sequence[int] | None = None,
) -> Roster:
    """Everybody, if no actors are named, and by equal weights, if none are given; the beacon decides who leads which view."""
    actors = range(len(keys)) if actors is None else actors
    members = tuple(Member(peer_of(actor), VoteKey(keys[actor].public)) for actor in actors)
    return kind(Epoch(epoch), members, weights or (1,) * len(members), digest(Domain.BEACON, beacon))


def genesis_anchor() -> Anchor:
    return Anchor.genesis(GENESIS_ROOT, GENESIS_MS)


# -- the ledger ---------------------------------------------------------------------------------------------------------

PEOPLE: Final = 6  # accounts that pay each other
FOUNDERS: Final = 4  # of them, the validators of the first state: the accounts of the first actors
BALANCE_NANO: Final = 10**9
STAKE_NANO: Final = 10**6
ACCOUNT_KEYS: Final = tuple(QuickKey(bytes([0xA0 + person]) * 32) for person in range(PEOPLE))
ARCHIVE: Final = QuickKey(b"\xaf" * 32)  # the account that fills large bodies
FIRST_VERSION: Final = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, blob_digest(b"configuration"), 1_024)


def account_of(key: KeyPair) -> AccountId:
    return AccountId(key.public)


def _make_card(person: int) -> MemberCard:
    """Real keys, real signatures. But a founder's node is its actor's, which has no key: genesis asks for no signatures."""
    node, account = (KeyPair(bytes([first + person]) * 32) for first in (0xC0, 0xA0))
    card = MemberCard.bind(node, KeyPair(vote_seed(person)), account)
    return replace(card, node=peer_of(person)) if person < FOUNDERS else card


CARDS: Final = tuple(_make_card(person) for person in range(PEOPLE))


def _make_state() -> State:
    """The state before the first block. Who votes is drawn by ``sets``, and asks no state: its rosters are the founders'."""
    keys = make_keys(FOUNDERS)
    balances = [(account_of(key), BALANCE_NANO) for key in (*ACCOUNT_KEYS, ARCHIVE)]
    stakes = [(card, STAKE_NANO) for card in CARDS[:FOUNDERS]]
    rosters = make_roster(keys, epoch=0), make_roster(keys, epoch=1)
    return genesis_state(balances, stakes, (), FIRST_VERSION, GENESIS_MS, rosters)


GENESIS_STATE: Final = _make_state()
GENESIS_ROOT: Final = GENESIS_STATE.root()
GENESIS_ROWS: Final = tuple((key, encode(entry)) for key, entry in all_rows(GENESIS_STATE) if entry is not None)

# -- weights ------------------------------------------------------------------------------------------------------------


# How weight is spread over n members; what a seed may draw.
WEIGHTS: Final[dict[str, Callable[[random.Random, int], tuple[int, ...]]]] = {
    "equal": lambda random_, count: (1,) * count,
    "steps": lambda random_, count: tuple(range(1, count + 1)),
    "drawn": lambda random_, count: tuple(random_.randrange(1, 20) for _ in range(count)),
    "one large": lambda random_, count: (*(2,) * (count - 1), max(2, count - 2)),  # just below a third of the weight
}


def choose_byzantine(random_: random.Random, weights: tuple[int, ...], *, over: bool) -> tuple[ActorId, ...]:
    """Byzantine members, ascending: the most weight below a third; with ``over`` some weight between one and two thirds.

    Empty if no set of members has such a weight.
    """
    total = sum(weights)
    low, high = (total, 2 * total) if over else (0, total)
    order = list(range(len(weights)))
    random_.shuffle(order)
    reached: dict[int, tuple[int, ...]] = {0: ()}  # weight -> the first set found that has it
    for member in order:
        for weight, members in list(reached.items()):
            if 3 * (weight + weights[member]) < high:
                reached.setdefault(weight + weights[member], (*members, member))
    fitting = [weight for weight in reached if low < 3 * weight]
    if not fitting:
        return ()
    chosen = random_.choice(fitting) if over else max(fitting)
    return tuple(ActorId(member) for member in sorted(reached[chosen]))
