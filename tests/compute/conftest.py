"""Small models and rules that every compute test shares."""

from __future__ import annotations

import sys

import pytest

from compute.model.config import MoEConfig, check_config
from compute.model.tiling import TileMap
from protocol.genesis import LearningRule, ModelShape


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Results repeat bit for bit only with one thread; tests that never import torch do not pay for it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shape() -> ModelShape:
    return ModelShape(
        vocabulary=258, layers=2, width=32, heads=2, experts=4, expert_width=48, experts_per_token=2, context=32
    )


@pytest.fixture(scope="session")
def config(shape: ModelShape) -> MoEConfig:
    return check_config(shape)


@pytest.fixture(scope="session")
def tile_map(shape: ModelShape) -> TileMap:
    return TileMap.from_shape(shape, 16_384)


@pytest.fixture(scope="session")
def rule() -> LearningRule:
    return LearningRule(
        inner_steps=8,
        batch_sequences=8,
        learning_rate_micro=5_000,
        learning_rate_floor_micro=500,
        warmup_rounds=1,
        decay_rounds=10,
        beta1_micro=900_000,
        beta2_micro=950_000,
        averaged_batches=4,
        weight_decay_micro=100_000,
        gradient_clip_micro=1_000_000,
        balance_loss_micro=10_000,
        delta_pipeline="none",
        update_pipeline="none",
        residual_decay_micro=950_000,
        residual_start_micro=500_000,
        merge_rule="mean",
        clip_multiple_micro=2_000_000,
        outer_rule="average",
        outer_rate_micro=1_000_000,
        outer_momentum_micro=0,
        round_ms=10_000,
        validation_sequences=16,
    )
