"""Train both towers: stage 1 both together, stage 2 the contextualizer alone, against frozen item vectors.

D: vector width, N: items, C: candidates, Q: queries
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from training.data.batches import BatchSampler, TrainBatch, stream_batches
from training.data.draws import Draw, seed_dropout, step_rng
from training.data.popularity_snapshots import PopularitySnapshots
from training.losses.candidates import Proposal, draw_candidates, owner_share, propose
from training.losses.objective import FrozenItems, Named, Objective, TrainedItems, hide_ids
from training.recipes.config import TrainConfig
from training.run.checkpoint import Position, RunDirectory, load_best, load_checkpoint, save_checkpoint
from training.run.distributed import ALONE, World, agreed, shard_batch, shard_weights, share_gradients, summed, whole
from training.run.diverged import TrainingDiverged, keep_step
from training.run.mup import Scale, mup_groups, mup_scales, start_mup
from training.run.stopping import EarlyStopping, StageEnd, evaluated, out_of_patience, stop_metric
from twotower.data.features import EncodedRows, Ints
from twotower.errors import EnvironmentProblem
from twotower.model.catalogue import embed_rows
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.model.searches import encode_queries

ADAM_BETAS = (0.9, 0.98)
NAMED, NAMED_AMONG = 128, 1024  # queries made from items at a step, and the items to find theirs among
QUERY_TABLE_RATE = 5.0  # of the table of words of queries: each word is met seldom, and nothing else learns from naming
SMOOTHED_STEPS = 50  # the loss that is shown is the mean over so many steps


@dataclass
class TrainState:
    """Everything that changes during training."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int = 0
    stage: int = 0  # 0-based
    stage_step: int = 0
    elapsed_s: float = 0.0
    unused_s: float = 0.0  # what stages that stopped early left of the run's minutes
    saved_s: float = 0.0  # elapsed_s of the last checkpoint
    losses: list[float] = field(default_factory=list)  # of this process, and of a resumed run the last ones before it
    stopping: EarlyStopping = field(default_factory=EarlyStopping)
    ends: list[StageEnd] = field(default_factory=list)  # of the stages that were evaluated to stop

    @property
    def smoothed_loss(self) -> float:
        """Mean loss of the last steps, in nats."""
        return float(np.mean(self.losses[-SMOOTHED_STEPS:]))


@dataclass(frozen=True)
class TrainInputs:
    """Everything that stays the same during training. Without a run directory no checkpoint and no failed step is written."""

    config: TrainConfig
    model: ModelConfig
    items: EncodedRows
    sampler: BatchSampler
    owner_share_N: npt.NDArray[np.float64]
    run: RunDirectory | None
    world: World


@dataclass(frozen=True)
class Frozen:
    """Item vectors for a stage with a frozen embedder, and how it draws pools; no proposal scores the whole catalogue."""

    vectors_ND: Tensor
    proposal: Proposal | None


@dataclass(frozen=True)
class StepReport:
    """The state of a run after a step, for progress displays and the journal."""

    stage: int
    step: int
    progress: float  # of the whole run
    loss: float  # smoothed, nats
    step_loss: float
    gradient_norm: float  # before clipping
    learning_rate: float
    elapsed_s: float  # of training, including attempts that were killed
    num_events: int  # that this step read
    events_per_s: float


def prepare_training(
    config: TrainConfig,
    model: ModelConfig,
    items: EncodedRows,
    sampler: BatchSampler,
    snapshots: PopularitySnapshots,
    run: RunDirectory | None = None,
    world: World = ALONE,
) -> tuple[TrainInputs, TrainState]:
    """Initialise the towers from the seed, on the device of this process, and their optimizer."""
    if config.precision == "bf16" and world.device.type == "cpu":
        raise EnvironmentProblem("bf16 is slower than fp32 on a CPU: train on a GPU, or with the precision fp32")
    if config.batch_windows < world.size:
        raise EnvironmentProblem(f"{world.size} processes cannot share {config.batch_windows} windows a batch: start fewer")
    torch.manual_seed(config.seed)
    objective = Objective(build_embedder(model), Contextualizer(model, config.dropout), snapshots).to(world.device)
    scales = mup_scales(config, model)
    start_mup(objective, scales)
    shard_weights(objective, config.sharding, world)
    inputs = TrainInputs(config, model, items, sampler, owner_share(sampler, len(items)), run, world)
    return inputs, TrainState(objective, make_optimizer(config, objective, scales))


def resumed(inputs: TrainInputs, state: TrainState) -> TrainState:
    """The state of the newest checkpoint in the run directory; the given state if there is none."""
    assert inputs.run is not None
    if (position := load_checkpoint(inputs.run, state.objective, state.optimizer, inputs.world)) is None:
        return state
    return TrainState(
        state.objective,
        state.optimizer,
        step=position.step,
        stage=position.stage,
        stage_step=position.stage_step,
        elapsed_s=position.elapsed_s,
        unused_s=position.unused_s,
        saved_s=position.elapsed_s,
        losses=list(position.losses),
        stopping=position.stopping,
        ends=list(position.ends),
    )


def make_optimizer(config: TrainConfig, objective: Objective, scales: Mapping[str, Scale]) -> torch.optim.Optimizer:
    """AdamW. Matrices of the contextualizer have one weight decay, the embedder and all tables, norms and biases another."""
    matrices: list[nn.Parameter] = []
    others = list(objective.embedder.parameters())
    for name, parameter in objective.contextualizer.named_parameters():
        (matrices if parameter.ndim == 2 and "table" not in name else others).append(parameter)
    if objective.contextualizer.query_table is not None:
        scales = {**scales, "contextualizer.query_table": Scale(rate=QUERY_TABLE_RATE)}
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": config.other_decay},
    ]
    return torch.optim.AdamW(mup_groups(groups, objective, scales), betas=ADAM_BETAS, fused=True)


def train(
    inputs: TrainInputs,
    state: TrainState,
    on_step: Callable[[StepReport], float | None] = lambda _: None,
    on_stage_end: Callable[[StageEnd], None] = lambda _: None,
) -> TrainState:
    """Run all remaining stages of the config. The learning rate follows one schedule over all stages.

    `on_step` returns the value to stop by if it was measured after this step, on rank 0; on the other ranks any number then. A
    stage that was measured ends with its best weights, or with those of an earlier stage if none of it was better.
    """
    begun = time.monotonic() - state.elapsed_s
    config = inputs.config
    with closing(stream_batches(inputs.sampler, config.seed, state.step, config.prefetch)) as batches:
        while state.stage < len(config.stages):
            run_stage(inputs, state, batches, begun, on_step)
            if state.stopping.best:
                on_stage_end(keep_best(inputs, state))
            state.stage, state.stage_step = state.stage + 1, 0
    for name, parameter in state.objective.eval().named_parameters():
        if not torch.isfinite(whole(parameter)).all():
            raise TrainingDiverged(f"{name} has weights that are not finite after step {state.step}")
    return state


def run_stage(
    inputs: TrainInputs,
    state: TrainState,
    batches: Iterator[TrainBatch],
    begun: float,
    on_step: Callable[[StepReport], float | None],
) -> None:
    """Train until the stage ends. `begun` is the start of the run on the monotonic clock."""
    config, world, stage = inputs.config, inputs.world, inputs.config.stages[state.stage]
    state.objective.train()
    state.objective.embedder.train(stage.train_embedder).requires_grad_(stage.train_embedder)
    frozen = None if stage.train_embedder else Frozen(embed_catalogue_once(inputs, state), propose(stage, inputs.owner_share_N))
    forward = share_gradients(state.objective, config.sharding, world)
    end, events, started = stage_starts(config)[state.stage + 1], 0, time.monotonic()
    while (done := progress(config, state)) < end and not out_of_patience(config, state.stopping):
        batch = next(batches)
        rate = learning_rate(done, len(batch.window_Q), config)
        loss, gradient_norm = train_step(inputs, state, forward, batch, frozen, rate)
        state.step, state.stage_step = state.step + 1, state.stage_step + 1
        state.elapsed_s = agreed(time.monotonic() - begun, world)
        state.losses.append(loss)
        num_events = int(batch.histories.lengths_B.sum())
        events += num_events
        value = on_step(
            StepReport(
                stage=state.stage + 1,
                step=state.step,
                progress=progress(config, state),
                loss=state.smoothed_loss,
                step_loss=loss,
                gradient_norm=gradient_norm,
                learning_rate=rate,
                elapsed_s=state.elapsed_s,
                num_events=num_events,
                events_per_s=events / (time.monotonic() - started),
            )
        )
        if value is not None:
            state.stopping = evaluated(state.stopping, state.step, agreed(value, world))
        keep_checkpoint(inputs, state)


def keep_best(inputs: TrainInputs, state: TrainState) -> StageEnd:
    """Go back to the weights and the optimizer of the best evaluation, and close the stage."""
    config, best = inputs.config, state.stopping
    left = max(0.0, stage_starts(config)[state.stage + 1] - progress(config, state))
    if best.best_step != state.step:
        assert inputs.run is not None, "without a run directory nothing is measured to stop by"
        load_best(inputs.run, best.best_step, state.objective, state.optimizer, inputs.world)
    end = StageEnd(
        stage=state.stage + 1,
        step=state.step,
        stopped_early=left > 0,
        metric=stop_metric(config),
        kept_step=best.best_step,
        kept_value=best.best_value,
        kept_evaluation=best.best,
        num_evaluations=best.num_evaluations,
    )
    if config.minutes is not None:  # the next stage has its own share of the run and of the schedule, not what was left
        state.unused_s += 60 * config.minutes * left
    state.ends.append(end)
    state.stopping = replace(best, before_stage=best.num_evaluations)
    return end


def stage_starts(config: TrainConfig) -> list[float]:
    """The progress at which each stage begins and, last, at which the run ends."""
    return [sum(stage.share for stage in config.stages[:n]) for n in range(len(config.stages) + 1)]


def progress(config: TrainConfig, state: TrainState) -> float:
    """How much of the run is done: by the clock in a run with minutes, by the steps in a run without."""
    start, stage = stage_starts(config)[state.stage], config.stages[state.stage]
    if config.minutes is not None:
        return max(start, (state.elapsed_s + state.unused_s) / (60 * config.minutes))
    assert stage.max_steps is not None
    return start + stage.share * (state.stage_step / stage.max_steps)


def learning_rate(progress: float, num_queries: int, config: TrainConfig) -> float:
    """2e-3 sqrt(B / 512) (Brüel Gabrielsson 2026, arXiv 2606.05257), with a linear warm-up, then a cosine to zero or constant."""
    peak = config.learning_rate * math.sqrt(num_queries / 512)
    warm = min(1.0, progress / config.warmup) if config.warmup else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) if config.schedule == "cosine" else 1.0
    return peak * max(warm, 1e-3) * decay


def train_step(
    inputs: TrainInputs, state: TrainState, forward: nn.Module, batch: TrainBatch, frozen: Frozen | None, rate: float
) -> tuple[float, float]:
    """One optimizer step on the global batch. Returns its loss in nats and the gradient norm before clipping."""
    config, world = inputs.config, inputs.world
    seed_dropout(config.seed, state.step, world.rank)
    scored = draw_trained_items(inputs, state, batch) if frozen is None else draw_frozen_items(inputs, state, frozen)
    with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        rank_loss: Tensor = forward(shard_batch(batch, world), scored)
    state.optimizer.zero_grad(set_to_none=True)
    (rank_loss * world.size).backward()  # type: ignore[no-untyped-call]  # because the gradients of the ranks are averaged
    loss = summed(rank_loss.detach(), world)
    trained = [p for g in state.optimizer.param_groups for p in g["params"] if p.grad is not None]
    gradient_norm = whole(nn.utils.clip_grad_norm_(trained, config.gradient_clip)).item()
    if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        raise diverged(inputs, state, batch, scored, f"the loss is {loss} and the gradient's norm {gradient_norm}", rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]
    state.optimizer.step()
    return loss, gradient_norm


def draw_trained_items(inputs: TrainInputs, state: TrainState, batch: TrainBatch) -> TrainedItems:
    """The candidates of a step of stage 1, which trains the embedder."""
    config = inputs.config
    num_items = len(inputs.items)
    num_uniform = config.stages[state.stage].num_negatives or num_items  # a small catalogue can be embedded at every step
    rng = step_rng(config.seed, Draw.CANDIDATES, state.step)
    drawn = draw_candidates(rng, batch, inputs.owner_share_N, num_uniform, config.batch_windows)
    features = inputs.items.take(drawn.rows_C)
    hide_ids(features, inputs.model, config.id_dropout, rng)
    return TrainedItems(drawn, features, draw_named(inputs, rng, drawn.rows_C))


def draw_frozen_items(inputs: TrainInputs, state: TrainState, frozen: Frozen) -> FrozenItems:
    """The frozen items of a step of stage 2, which does not train the embedder."""
    rng = step_rng(inputs.config.seed, Draw.CANDIDATES, state.step)
    drawn = frozen.proposal.draw(rng) if frozen.proposal else None
    return FrozenItems(frozen.vectors_ND, drawn, draw_named(inputs, rng, np.arange(len(inputs.items))))


def draw_named(inputs: TrainInputs, rng: np.random.Generator, rows: Ints) -> Named | None:
    """Queries made from some of these items, to be found among some more; None without words of items."""
    words = inputs.sampler.words
    if words is None:
        return None
    place_K = rng.choice(len(rows), min(NAMED_AMONG, len(rows)), replace=False)
    made = [(target, words.query(rng, int(rows[place]))) for target, place in enumerate(place_K[:NAMED].tolist())]
    texts = [text for _, text in made if text is not None]
    if not texts:
        return None
    target_S = torch.tensor([target for target, text in made if text is not None])
    weight = 1 / inputs.world.size  # every rank computes all of it
    return Named(encode_queries(texts, inputs.model), torch.from_numpy(place_K), target_S, weight)


def diverged(
    inputs: TrainInputs, state: TrainState, batch: TrainBatch, scored: TrainedItems | FrozenItems, what: str, rate: float
) -> TrainingDiverged:
    """The error that ends the run. Writes what the step read into the run directory."""
    kept = ""
    if inputs.run is not None and inputs.world.leads:
        drawn = scored.drawn if isinstance(scored, FrozenItems) else scored
        path = keep_step(inputs.run, state.step, batch, drawn, inputs.sampler.log.user_ids)
        kept = f" What the step read is in {path}; the .json beside it names its users, its items and what was not finite."
    return TrainingDiverged(
        f"{what} at step {state.step} (learning rate {rate:.2e}): look for wild values with `twotower validate`, and lower "
        f"the recipe's learning_rate.{kept}"
    )


def keep_checkpoint(inputs: TrainInputs, state: TrainState) -> None:
    """Write a checkpoint if the last one is old enough, and when the last evaluation was the best, to go back to its weights."""
    is_best = state.stopping.best > 0 and state.stopping.best_step == state.step
    if inputs.run is None or not (is_best or state.elapsed_s - state.saved_s >= 60 * inputs.config.checkpoint_minutes):
        return
    position = Position(
        step=state.step,
        stage=state.stage,
        stage_step=state.stage_step,
        elapsed_s=state.elapsed_s,
        unused_s=state.unused_s,
        losses=state.losses[-SMOOTHED_STEPS:],
        stopping=state.stopping,
        ends=state.ends,
    )
    save_checkpoint(inputs.run, position, state.objective, state.optimizer, inputs.world)
    state.saved_s = state.elapsed_s


def whole_objective(inputs: TrainInputs, state: TrainState) -> Objective:
    """The towers as a whole: those that are trained, or on the CPU if each rank has a part. Every rank must call this."""
    if inputs.world.size == 1 or inputs.config.sharding == "ddp":
        return state.objective
    copy = Objective(build_embedder(inputs.model), Contextualizer(inputs.model), state.objective.snapshots)
    copy.load_state_dict({name: whole(tensor).cpu() for name, tensor in state.objective.state_dict().items()})
    return copy.train(state.objective.training)


def embed_catalogue_once(inputs: TrainInputs, state: TrainState) -> Tensor:
    """Vectors [N, D] of all items from the current embedder, on the device that computes the loss, where they stay."""
    return embed_rows(whole_objective(inputs, state).embedder, inputs.items).clone().to(inputs.world.device)
