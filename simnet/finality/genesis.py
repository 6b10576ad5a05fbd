"""What every run begins with: keys, roster, rule, and an application whose state is a hash.

Signatures are hashes, a thousand times faster than Ed25519: villains of ours do not forge, and nothing here is secret.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Final, NewType

from consensus.finality.events import Anchor
from protocol.digest import Domain, digest
from protocol.finality import EMPTY_BODY, ChainId
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, PeerId, Signature, VoteKey
from protocol.keys import KeyPair
from protocol.roster import Member, Roster

ActorId = NewType("ActorId", int)  # whoever holds a key, by its number; its place in a roster is another number
DELTA_MS: Final = 1_000
GENESIS_MS: Final = 1_000_000
CHAIN: Final = ChainId(b"test", 0)
RULE: Final = ChainRule(
    view_delta_ms=DELTA_MS, block_interval_ms_min=300, idle_interval_ms=600, tile_shards=1, epoch_heights=1_024
)
GENESIS_ROOT: Final = digest(Domain.STATE, b"genesis")


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
    return [kind(bytes([index + 1]) * 32) for index in range(count)]


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


def execute(parent_root: Digest, body: bytes) -> Digest:
    """The application: the state is the hash of every body that is not empty."""
    return parent_root if body == EMPTY_BODY else digest(Domain.STATE, parent_root, body)


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
