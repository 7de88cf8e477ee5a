"""Train both towers: stage 1 jointly on sampled candidates, stage 2 the contextualizer alone against cached item vectors.

D: vector width, N: items, C: candidates, Q: queries
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.batches import BatchSampler, TrainBatch, stream_batches
from training.config import StageConfig, TrainConfig
from training.negatives import draw_candidates, owner_share
from training.objective import Objective, SampledItems, hide_ids
from training.snapshots import PopularitySnapshots
from twotower.catalogue import embed_rows
from twotower.errors import TwoTowerError
from twotower.features import EncodedRows
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder

ADAM_BETAS = (0.9, 0.98)


class TrainingDiverged(TwoTowerError):
    """The loss or a weight is not a number any more; nothing is saved."""


@dataclass
class TrainState:
    """Everything that changes while training."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    step: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TrainInputs:
    """Everything that does not."""

    config: TrainConfig
    model: ModelConfig
    items: EncodedRows
    sampler: BatchSampler
    owner_share_N: npt.NDArray[np.float64]


@dataclass(frozen=True)
class StepReport:
    """What a progress display may show."""

    stage: int
    step: int
    progress: float  # of the whole run
    loss: float  # smoothed, nats
    events_per_s: float


def prepare_training(
    config: TrainConfig, model: ModelConfig, items: EncodedRows, sampler: BatchSampler, snapshots: PopularitySnapshots
) -> tuple[TrainInputs, TrainState]:
    """Seeded towers and their optimizer."""
    torch.manual_seed(config.seed)
    embedder, contextualizer = Embedder(model), Contextualizer(model, config.dropout)
    inputs = TrainInputs(config, model, items, sampler, owner_share(sampler, len(items)))
    objective = Objective(embedder, contextualizer, snapshots)
    return inputs, TrainState(objective, make_optimizer(config, objective), np.random.default_rng(config.seed + 1))


def make_optimizer(config: TrainConfig, objective: Objective) -> torch.optim.Optimizer:
    """AdamW. Only the matrices of the contextualizer decay: hash tables, norms and biases are touched too unevenly."""
    decays: list[nn.Parameter] = []
    keeps = list(objective.embedder.parameters())
    for name, parameter in objective.contextualizer.named_parameters():
        (decays if parameter.ndim == 2 and "table" not in name else keeps).append(parameter)
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": keeps, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=ADAM_BETAS, fused=True)


def train(inputs: TrainInputs, state: TrainState, on_step: Callable[[StepReport], None] = lambda _: None) -> TrainState:
    """Run every stage of the config; the learning rate follows one cosine over all of them."""
    begun = time.monotonic()
    batches = stream_batches(inputs.sampler, inputs.config.seed + 2)
    before = 0.0
    for number, stage in enumerate(inputs.config.stages, start=1):
        state = run_stage(inputs, state, stage, number, before, begun, batches, on_step)
        before += stage.share
    for name, parameter in state.objective.eval().named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingDiverged(f"{name} has weights that are not finite after step {state.step}")
    return state


def run_stage(
    inputs: TrainInputs,
    state: TrainState,
    stage: StageConfig,
    number: int,
    before: float,
    begun: float,
    batches: Iterator[TrainBatch],
    on_step: Callable[[StepReport], None],
) -> TrainState:
    """Train until the stage's share of the run is spent, in minutes or in steps."""
    state.objective.train()
    state.objective.embedder.train(stage.train_embedder)
    vectors_ND = None if stage.train_embedder else embed_rows(state.objective.embedder, inputs.items).clone()
    run_s, first_step, events, started = inputs.config.minutes * 60, state.step, 0, time.monotonic()
    while True:
        spent = max((time.monotonic() - begun) / run_s - before, 0.0)
        progress = before + max(spent, stage.share * (state.step - first_step) / stage.max_steps)
        if progress >= before + stage.share:
            return state
        batch = next(batches)
        rate = learning_rate(progress, len(batch.window_Q), inputs.config)
        loss = train_step(inputs, state, stage, batch, vectors_ND, rate)
        events += int(batch.histories.lengths_B.sum())
        state.losses.append(loss)
        smoothed = float(np.mean(state.losses[-50:]))
        on_step(StepReport(number, state.step, progress, smoothed, events / (time.monotonic() - started)))


def learning_rate(progress: float, num_queries: int, config: TrainConfig) -> float:
    """2e-3 sqrt(B / 512) (SCIENCE), linear warm-up, cosine to zero."""
    peak = config.learning_rate * math.sqrt(num_queries / 512)
    warm = min(1.0, progress / config.warmup) if config.warmup else 1.0
    return peak * max(warm, 1e-3) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def train_step(
    inputs: TrainInputs, state: TrainState, stage: StageConfig, batch: TrainBatch, vectors_ND: Tensor | None, rate: float
) -> float:
    """One optimizer step; returns the loss in nats."""
    loss: Tensor = state.objective(batch, sample_items(inputs, state, stage, batch) if vectors_ND is None else vectors_ND)
    if not math.isfinite(loss.item()):
        raise TrainingDiverged(
            f"the loss is {loss.item()} at step {state.step} (learning rate {rate:.2e}): look for wild values with "
            f"`twotower validate`, and lower the recipe's learning_rate"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for g in state.optimizer.param_groups for p in g["params"] if p.grad is not None]
    nn.utils.clip_grad_norm_(trained, inputs.config.gradient_clip)
    state.optimizer.step()
    state.step += 1
    return loss.item()


def sample_items(inputs: TrainInputs, state: TrainState, stage: StageConfig, batch: TrainBatch) -> SampledItems:
    """The candidates of a step that trains the embedder."""
    assert stage.num_uniform is not None, "a stage that trains the embedder cannot embed the whole catalogue per step"
    drawn = draw_candidates(state.rng, batch, inputs.owner_share_N, stage.num_uniform, inputs.config.batch_windows)
    features = inputs.items.take(drawn.rows_C)
    hide_ids(features, inputs.model, inputs.config.id_dropout, state.rng)
    return SampledItems(drawn, features)
