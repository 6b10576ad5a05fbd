"""What the same learners would have learned had something been different: the learning of a world alone, without its network.

A world says who gave a delta in each round; its shadow learns again with these learners, the same valley and the real
arithmetic (compression with error feedback, merge, published update, outer step), in one of three ways:

    AS_MERGED   villains and the scenario's own merge rule: what a world without latency and losses would have shown
    PLAIN       villains and a plain average: no clipping, no robust rule
    HONEST      the honest of each round alone, under the scenario's own rule

So the report can show what plain averaging would have lost, and the cost of poison is AS_MERGED against HONEST: both
without the network, so that nothing but the poison differs. In the real world a delta may come a round later; here
everybody's is there at once, and of more than a slot holds the luckiest are taken. All the honest send before the first
villain, so that villains have seen most.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Final

from compute.delta.codec import decode, encode_and_read
from compute.delta.feedback import add_back, begin_ahead, compress_with_feedback, empty_residual
from compute.exact import Float32
from compute.merge import Contribution, MergeRule, merge
from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from compute.outer import apply_update, initial_state
from node.tile_work import matrices_of, merge_rule, outer_rule
from protocol.digest import Domain, digest, number
from protocol.genesis import MILLION, Genesis
from protocol.ids import PeerId, TileId, Version
from protocol.limits import DELTAS_PER_SLOT_MAX
from protocol.rejection import Rejected
from simnet.compute import make_valley
from simnet.network import make_genesis, plan_peers
from simnet.scenario import Scenario
from simnet.villains import VILLAINS, Conspiracy, Villain

PLAIN_AVERAGE: Final = MergeRule("mean", clip_multiple=Fraction(10**12))  # beyond what any delta may hold
LOSS_MAX: Final = 1_000.0  # of a model that is lost: how many nats more says nothing


class Shadow(enum.Enum):
    """What is different."""

    AS_MERGED = "as merged"
    PLAIN = "plain"
    HONEST = "honest"


VillainPlan = tuple[str, int]  # its kind, and the round from which on it is one


def shadow_losses(
    scenario: Scenario, seed: int, participants: Sequence[Collection[PeerId]], shadow: Shadow
) -> list[float]:
    """The loss after each round, of which ``participants`` says who gave a delta; villains are those of the plan."""
    plans = plan_peers(scenario, seed)
    villains = {plan.peer: (plan.villain, plan.villain_from_round) for plan in plans if plan.villain is not None}
    genesis = make_genesis(scenario, [plan.keys for plan in plans], seed)
    return losses_of(genesis, seed, participants, villains, shadow)


def losses_of(
    genesis: Genesis,
    seed: int,
    participants: Sequence[Collection[PeerId]],
    villains: Mapping[PeerId, VillainPlan],
    shadow: Shadow,
) -> list[float]:
    """The same for any network, learners and villains. At most ``LOSS_MAX`` each; a lost model stays lost."""
    rule = merge_rule(genesis.learning)
    world = _World(genesis, seed, villains, PLAIN_AVERAGE if shadow is Shadow.PLAIN else rule)
    losses: list[float] = []
    for round_number, present in enumerate(participants):
        learners = sorted(present)
        if shadow is Shadow.HONEST:
            learners = [peer for peer in learners if not world.is_villain(peer, round_number)]
        losses.append(world.learn(round_number, learners))
    return losses


class _World:
    """Weights, residuals and villains from round to round."""

    def __init__(self, genesis: Genesis, seed: int, villains: Mapping[PeerId, VillainPlan], rule: MergeRule) -> None:
        self._genesis = genesis
        self._rule = genesis.learning
        self._outer = outer_rule(genesis.learning)
        self._merge_rule = rule
        self._tile_map = TileMap.from_shape(genesis.model, genesis.tile_bytes)
        self._valley = make_valley(self._tile_map, seed)
        self._states = {
            tile_id: initial_state(
                genesis_tile(genesis.model, self._tile_map, genesis.model_seed, tile_id), self._outer
            )
            for tile_id in self._tile_map.ids
        }
        self._residuals: dict[tuple[PeerId, TileId], Float32] = {}
        self._conspiracy = Conspiracy(seed)
        self._seed = seed
        self._plans = villains
        self._villains: dict[PeerId, Villain] = {}
        self._is_lost = False

    def is_villain(self, peer: PeerId, round_number: int) -> bool:
        plan = self._plans.get(peer)
        return plan is not None and round_number >= plan[1]

    def learn(self, round_number: int, learners: Sequence[PeerId]) -> float:
        """One round of these learners; the loss after it."""
        if not self._is_lost and learners:
            order = sorted(learners, key=lambda peer: self.is_villain(peer, round_number))
            try:
                for tile_id in self._tile_map.ids:
                    self._learn_tile(tile_id, round_number, order)
            except Rejected:  # numbers beyond what any delta or weight may hold
                self._is_lost = True
        if self._is_lost:
            return LOSS_MAX
        return min(LOSS_MAX, self._valley.loss({tile_id: state[0] for tile_id, state in self._states.items()}))

    def _learn_tile(self, tile_id: TileId, round_number: int, learners: Sequence[PeerId]) -> None:
        payloads = {peer: self._send(tile_id, round_number, peer) for peer in learners}
        sent = [(peer, payload) for peer, payload in payloads.items() if payload is not None]

        def luck(each: tuple[PeerId, bytes]) -> bytes:
            return digest(Domain.SELECTION, tile_id.encode(), number(round_number), each[0])

        sent.sort(key=luck)
        for peer, payload in sent[DELTAS_PER_SLOT_MAX:]:
            self._residuals[peer, tile_id] = add_back(self._residuals[peer, tile_id], payload)
        tile = self._tile_map.tile(tile_id)
        taken: list[Contribution] = [
            (peer, 1, decode(payload, tile.values)) for peer, payload in sent[:DELTAS_PER_SLOT_MAX]
        ]
        if taken:
            gradient_N = merge(taken, self._merge_rule).gradient_N
            _, said = encode_and_read(gradient_N, self._rule.update_pipeline, matrices_of(tile))
            self._states[tile_id] = apply_update(self._states[tile_id], said, self._outer, Version(round_number + 1))

    def _send(self, tile_id: TileId, round_number: int, peer: PeerId) -> bytes | None:
        """What this learner sends for the tile, its residual kept."""
        weights_N, steps = self._states[tile_id][0], self._rule.inner_steps
        residual_N = self._residuals.get((peer, tile_id))
        if residual_N is None:
            residual_N = empty_residual(weights_N.size)
        change_N: Float32 | None
        ahead_N = begin_ahead(weights_N, residual_N, Fraction(self._rule.residual_start_micro, MILLION))
        if self.is_villain(peer, round_number):
            villain = self._villain(peer)
            honest_N = self._valley.change(tile_id, ahead_N, peer, round_number, steps, flipped=villain.FLIPS_LABELS)
            change_N = villain.change(tile_id, round_number, Version(round_number), ahead_N, honest_N)
        else:
            change_N = self._valley.change(tile_id, ahead_N, peer, round_number, steps)
            self._conspiracy.saw(peer, tile_id, round_number, change_N)
        if change_N is None:
            return None
        payload, self._residuals[peer, tile_id] = compress_with_feedback(
            change_N,
            residual_N,
            self._rule.delta_pipeline,
            Fraction(self._rule.residual_decay_micro, MILLION),
            matrices_of(self._tile_map.tile(tile_id)),
        )
        return payload

    def _villain(self, peer: PeerId) -> Villain:
        found = self._villains.get(peer)
        if found is None:
            kind, _ = self._plans[peer]
            found = self._villains[peer] = VILLAINS[kind](peer, self._seed, self._conspiracy)
        return found
