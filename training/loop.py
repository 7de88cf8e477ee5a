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
from training.loss import FrozenCatalogue, correct_for_sampling, frozen_set_loss, set_loss
from training.negatives import Candidates, certain_items, draw_candidates, owner_share
from training.snapshots import PopularitySnapshots
from twotower.catalogue import embed_rows, tensors
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

    embedder: Embedder
    contextualizer: Contextualizer
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
    snapshots: PopularitySnapshots
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
    inputs = TrainInputs(config, model, items, sampler, snapshots, owner_share(sampler, len(items)))
    return inputs, TrainState(
        embedder, contextualizer, make_optimizer(config, embedder, contextualizer), np.random.default_rng(config.seed + 1)
    )


def make_optimizer(config: TrainConfig, embedder: nn.Module, contextualizer: nn.Module) -> torch.optim.Optimizer:
    """AdamW. Only the matrices of the contextualizer decay: hash tables, norms and biases are touched too unevenly."""
    decays: list[nn.Parameter] = []
    keeps = list(embedder.parameters())
    for name, parameter in contextualizer.named_parameters():
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
    for tower in (state.embedder.eval(), state.contextualizer.eval()):
        if not all(torch.isfinite(p).all() for p in tower.parameters()):
            raise TrainingDiverged(f"{type(tower).__name__} has weights that are not finite after step {state.step}")
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
    state.contextualizer.train()
    state.embedder.train(stage.train_embedder)
    vectors_ND = None if stage.train_embedder else embed_rows(state.embedder, inputs.items).clone()
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
    if vectors_ND is None:
        assert stage.num_uniform is not None, "a stage that trains the embedder cannot embed the whole catalogue per step"
        candidates = draw_candidates(state.rng, batch, inputs.owner_share_N, stage.num_uniform, inputs.config.batch_windows)
        rows = inputs.items.take(candidates.rows_C)
        hide_ids(rows, inputs.model, inputs.config.id_dropout, state.rng)
        loss = sampled_loss(inputs, state, batch, candidates, state.embedder(*tensors(rows)))
    else:
        loss = exact_loss(inputs, state, batch, vectors_ND)
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


def hide_ids(rows: EncodedRows, model: ModelConfig, share: float, rng: np.random.Generator) -> None:
    """Silence the id's hashes for a share of the rows, in place, so that an unseen item can stand on its content."""
    hidden = rng.random(len(rows)) < share
    rows.weights_NS[hidden, : model.item_spec.num_id_hashes] = 0.0


def sampled_loss(inputs: TrainInputs, state: TrainState, batch: TrainBatch, drawn: Candidates, vectors_CD: Tensor) -> Tensor:
    """The set loss over the candidates, corrected for how they were drawn."""
    own_column_M = drawn.column_of(batch.own.rows_M)
    answer_column_A = drawn.column_of(batch.answer_rows_A)
    popularity_QCP = torch.from_numpy(inputs.snapshots.of_items(batch.now_ms_Q[:, None], drawn.rows_C))
    inputs_BLD = vectors_CD[drawn.column_of(batch.histories.item_rows_BL)]
    query_input = query_inputs(state.contextualizer, batch, inputs_BLD)
    scores_QC = candidate_scores(state.contextualizer, batch, query_input, vectors_CD, popularity_QCP, own_column_M)
    certain_QC = certain_items(batch, drawn)[batch.window_Q]
    corrected_QC = correct_for_sampling(scores_QC, torch.from_numpy(drawn.log_weight_C), certain_QC)
    return set_loss(corrected_QC, batch.answer_query_A, answer_column_A, batch.answer_weights_A)


def exact_loss(inputs: TrainInputs, state: TrainState, batch: TrainBatch, vectors_ND: Tensor) -> Tensor:
    """The set loss over the whole catalogue, its vectors fixed."""
    query_input = query_inputs(state.contextualizer, batch, vectors_ND[batch.histories.item_rows_BL])
    popularity_MP = inputs.snapshots.of_items(batch.now_ms_Q[batch.own.request_M.numpy()], batch.own.rows_M.numpy())
    return frozen_set_loss(
        state.contextualizer.queries(query_input),
        state.contextualizer.repeat_scores(
            query_input, batch.own.request_M, batch.own.features_M6, torch.from_numpy(popularity_MP)
        ),
        batch.own.request_M,
        batch.own.rows_M,
        batch.now_ms_Q,
        batch.answer_query_A,
        batch.answer_rows_A,
        batch.answer_weights_A,
        FrozenCatalogue(vectors_ND, inputs.snapshots),
    )


def query_inputs(contextualizer: Contextualizer, batch: TrainBatch, inputs_BLD: Tensor) -> Tensor:
    """What every query knows of its history and of its request."""
    hidden_BLD = contextualizer(inputs_BLD, batch.histories)
    hidden_QD = hidden_BLD[batch.window_Q, batch.position_Q.clamp(min=0)]
    return contextualizer.query_input(hidden_QD, batch.position_Q < 0, batch.request_Q7, batch.wanted_QS, batch.wanted_weights_QS)


def candidate_scores(
    contextualizer: Contextualizer,
    batch: TrainBatch,
    query_input: Tensor,
    vectors_CD: Tensor,
    popularity_QCP: Tensor,
    own_column_M: Tensor,
) -> Tensor:
    """Scores [Q, C] of every candidate, each query under the popularity of its own day."""
    query_QV = contextualizer.queries(query_input)
    width = vectors_CD.shape[1]
    scores_QC = query_QV[:, :width] @ vectors_CD.T
    scores_QC = scores_QC + torch.einsum("qp,qcp->qc", query_QV[:, width:], popularity_QCP)
    own_popularity_MP = popularity_QCP[batch.own.request_M, own_column_M]
    repeat_M = contextualizer.repeat_scores(query_input, batch.own.request_M, batch.own.features_M6, own_popularity_MP)
    return scores_QC.index_put((batch.own.request_M, own_column_M), repeat_M, accumulate=True)
