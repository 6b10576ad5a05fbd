"""Who votes in which epoch: drawn as the run goes on, each set two epochs before it votes, as the chain fixes it.

Between two epochs members join, leave, come back, and weigh more or less. Villains change too, and hold in every epoch the most
weight below a third that the honest leave them, or none at all; with ``over`` between one and two thirds.
"""

from __future__ import annotations

import random
from typing import Final

from consensus.finality.schedule import Schedule
from protocol.genesis import ChainRule
from protocol.ids import MemberIndex
from protocol.keys import KeyPair
from protocol.roster import Roster
from simnet.finality.genesis import ActorId, actor_of, make_roster, peer_of

HONEST_MIN: Final = 2
WEIGHT_MAX: Final = 30
CHANGES_MAX: Final = 3  # between two epochs

Weights = tuple[int, ...]  # of every actor; zero: not a member


class Sets:
    """The rosters of one run. ``gone``: actors that will not come back; a set that is not fixed yet does without them."""

    def __init__(
        self,
        random_: random.Random,
        keys: list[KeyPair],
        kind: type[Roster],
        rule: ChainRule,
        first: Weights,
        byzantine: tuple[ActorId, ...],
        *,
        changes: bool,
        over: bool,
    ) -> None:
        """``kind``: what the machines are given. What the checkers ask for is computed from the plain weights."""
        self._random = random_
        self._keys = keys
        self._kind = kind
        self._rule = rule
        self._byzantine = byzantine
        self._changes = changes
        self._over = over
        self._weights: list[Weights] = [first]
        self._rosters = [self._make_roster(0, first)]
        self._schedules = [Schedule(self._rosters[0], rule)]
        self.gone: list[ActorId] = []

    def replace_first(self, beacon: bytes) -> None:
        """Another beacon for the first epoch, before anybody has asked: other members lead."""
        self._rosters[0] = make_roster(self._keys, self._kind, self._weights[0], beacon)
        self._schedules[0] = Schedule(self._rosters[0], self._rule)

    def roster(self, epoch: int) -> Roster:
        self._draw_through(epoch)
        return self._rosters[epoch]

    def weights(self, epoch: int) -> Weights:
        """By actor."""
        self._draw_through(epoch)
        return self._weights[epoch]

    def is_fixed(self, epoch: int) -> bool:
        """Whether the set of this epoch was drawn."""
        return epoch < len(self._weights)

    def schedule(self, epoch: int) -> Schedule:
        self._draw_through(epoch)
        return self._schedules[epoch]

    def leader(self, epoch: int, view: int) -> ActorId:
        return actor_of(self.roster(epoch).members[self.schedule(epoch).leader(view)].node)  # type: ignore[arg-type]  # View

    def place_of(self, actor: int, epoch: int) -> MemberIndex | None:
        return self.roster(epoch).find_index(peer_of(actor))

    def find_actor(self, place: int, epoch: int) -> ActorId | None:
        """Who has this place in the roster of an epoch that is fixed."""
        if not self.is_fixed(epoch) or place >= len(self._rosters[epoch].members):
            return None
        return actor_of(self._rosters[epoch].members[place].node)

    def byzantine_weight(self, epoch: int) -> int:
        weights = self.weights(epoch)
        return sum(weights[actor] for actor in self._byzantine)

    def changes_through(self, epoch: int) -> int:
        """How often, up to the beginning of this epoch, the set was another than the one before."""
        return sum(self.weights(at) != self.weights(at - 1) for at in range(1, epoch + 1))

    # -- drawing ------------------------------------------------------------------------------------------------------

    def _draw_through(self, epoch: int) -> None:
        while len(self._weights) <= epoch:
            weights = self._draw(list(self._weights[-1])) if self._changes else self._weights[-1]
            self._rosters.append(self._make_roster(len(self._weights), weights))
            self._weights.append(weights)
            self._schedules.append(Schedule(self._rosters[-1], self._rule))

    def _make_roster(self, epoch: int, weights: Weights) -> Roster:
        actors = [actor for actor, weight in enumerate(weights) if weight]
        shares = tuple(weights[actor] for actor in actors)
        return make_roster(self._keys, self._kind, shares, self._random.randbytes(8), epoch, actors)

    def _draw(self, weights: list[int]) -> Weights:
        random_ = self._random
        for absent in self.gone:
            weights[absent] = 0
        if not self.gone and random_.random() < 0.25:
            return tuple(weights)
        honest = [actor for actor in range(len(weights)) if actor not in self._byzantine and actor not in self.gone]
        for _ in range(random_.randrange(1, CHANGES_MAX + 1)):
            actor = random_.choice(honest)
            leaves = weights[actor] and random_.random() < 0.4
            if leaves and sum(weights[other] > 0 for other in honest) > HONEST_MIN:
                weights[actor] = 0
            else:
                weights[actor] = random_.choice((1, 2, max(1, weights[actor]), random_.randrange(1, WEIGHT_MAX + 1)))
        self._share(weights, sum(weights[actor] for actor in honest))
        return tuple(weights)

    def _share(self, weights: list[int], honest_weight: int) -> None:
        """Give the villains what they may hold, each of some of them its part."""
        random_ = self._random
        villains = list(self._byzantine)
        random_.shuffle(villains)
        if self._over:  # 1/3 < B / (B + H) < 2/3
            weight = random_.randrange(honest_weight // 2 + 1, 2 * honest_weight)
        else:  # the most with 3 B < B + H; sometimes they are away, and come back
            weight = 0 if random_.random() < 0.15 else (honest_weight - 1) // 2
        for number, villain in enumerate(villains):
            part = weight if number == len(villains) - 1 else random_.randrange(weight + 1)
            weights[villain] = part
            weight -= part
