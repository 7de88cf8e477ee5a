"""One run of a sweep: train to a budget of FLOPs, then rank the validation part.

The budget counts every product of both stages, forward and backward: embedder, contextualizer, attention, and the scores of
the candidates. They are counted on batches of the run itself, term by term (`twotower.planning.flops`).
"""

import time
from contextlib import closing
from dataclasses import replace
from itertools import islice, pairwise

import msgspec
import numpy as np
import torch

from training.data.batches import BatchSampler, stream_batches
from training.data.read import Data
from training.evaluation.metrics import point_metrics
from training.evaluation.rankers import PROTOCOLS, Model, Query, rank
from training.evaluation.splits import sample
from training.losses.candidates import propose
from training.losses.composition import composition
from training.recipes.budget import count_parameters, size_model, sizes_of
from training.recipes.config import StageConfig, TrainConfig
from training.run.diverged import TrainingDiverged
from training.run.loop import (
    Frozen,
    TrainInputs,
    TrainState,
    draw_frozen_items,
    draw_trained_items,
    prepare_training,
    train,
)
from training.sweeps.corpus import Corpus
from training.sweeps.ledger import Outcome, Run, Settings
from twotower.errors import TwoTowerError
from twotower.model.catalogue import embed_rows
from twotower.planning.flops import step_flops

NUM_ANSWERS = 10_000  # of the validation part, the same ones for all runs of a corpus
COUNTED_STEPS = 16  # of each stage, whose FLOPs are counted
LEAST_STEPS = 40  # a run of fewer says nothing of its sizes
KEPT = (
    "set_loss",
    "perplexity",
    "entropy",
    "recall@10",
    "ndcg@10",
    "mrr@10",
    "coverage@10",
    "unseen_recall@10",
    "batch_local_loss",
    "batch_local_recall@10",
)
AGEING = ("set_loss", "recall@10", "ndcg@10", "unseen_recall@10")
WEEK_MS = 7 * 24 * 3600 * 1000


def measure(settings: Settings, corpus: Corpus) -> Run:
    """Train and evaluate one point of a grid. Errors of the settings and divergence are outcomes, not exceptions."""
    begun = time.monotonic()
    try:
        return _measured(settings, corpus, begun)
    except TrainingDiverged as error:
        return ended(settings, "diverged", str(error), begun)
    except (TwoTowerError, ValueError) as error:
        return ended(settings, "failed", str(error), begun)


def config_of(settings: Settings, steps: tuple[int, int]) -> TrainConfig:
    """The configuration of a run, whose two stages have so many steps."""
    negatives = "uniform" if not settings.popular else "popular" if settings.log_q else "popular_uncorrected"
    return TrainConfig(
        metric="next-basket set_loss",
        minutes=None,
        width=settings.width,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_kv_heads,
        past_heads=settings.past_heads,
        embedder_share=settings.share,
        batch_windows=settings.batch_windows,
        max_queries=settings.max_queries,
        learning_rate=settings.learning_rate,
        window=settings.window,
        page=settings.page,
        dropout=0.0,
        evaluations=0,
        seed=settings.seed,
        stages=(
            StageConfig(
                share=1 - settings.frozen_share, num_negatives=settings.first_negatives, train_embedder=True, max_steps=steps[0]
            ),
            StageConfig(
                share=settings.frozen_share,
                num_negatives=settings.negatives,
                negatives=negatives,  # type: ignore[arg-type]
                train_embedder=False,
                max_steps=steps[1],
            ),
        ),
    )


def _measured(settings: Settings, corpus: Corpus, begun: float) -> Run:
    data = corpus.trained_until(settings.train_until)
    config = config_of(settings, (1, 1))
    model = size_model(config, corpus.item_spec, data.log.context_spec, 0, corpus.schema.events.clock)
    encoded = corpus.encoded(model.table_rows)
    sampler = BatchSampler(data.log, data.train_until_ms, model, config)
    (first, second), num_queries = mean_flops(*prepare_training(config, model, encoded, sampler, data.snapshots))
    num_steps = settings.flops / ((1 - settings.frozen_share) * first + settings.frozen_share * second)
    if num_steps < LEAST_STEPS:
        raise ValueError(
            f"{settings.flops:.2g} FLOPs are {num_steps:.0f} steps of this model and batch, and {LEAST_STEPS} are needed: "
            f"give a larger budget, a smaller model or a smaller batch"
        )
    steps = (round((1 - settings.frozen_share) * num_steps), round(settings.frozen_share * num_steps))
    inputs, state = prepare_training(config_of(settings, steps), model, encoded, sampler, data.snapshots)
    events: list[int] = []
    state = train(inputs, state, lambda report: events.append(report.num_events))
    parameters = count_parameters(model)
    ranker = Model(state.objective.contextualizer, model, embed_rows(state.objective.embedder, encoded), data.log, data.snapshots)
    metrics = _metrics(settings, data, ranker)
    num_items = len(data.item_ids)
    return msgspec.structs.replace(
        ended(settings, "done", "", begun),
        flops_exact=steps[0] * first + steps[1] * second,
        parameters=sum(parameters),
        share=parameters.share,
        events=sum(events),
        distinct_events=int(data.train_count_N.sum()),
        batch=round(num_queries),
        negatives=min(settings.negatives or num_items, num_items),
        metrics={**metrics, "train_loss": state.smoothed_loss, "steps": float(state.step)},
    )


def mean_flops(inputs: TrainInputs, state: TrainState) -> tuple[list[float], float]:
    """Mean FLOPs of a step of each stage, and mean queries of a step, over some steps that are drawn and not taken."""
    sizes, flops, queries = sizes_of(inputs.model), list[float](), list[int]()
    with closing(stream_batches(inputs.sampler, inputs.config.seed)) as batches:
        for place, stage in enumerate(inputs.config.stages):
            at = replace(state, stage=place)
            proposal = propose(stage, inputs.owner_share_N)
            frozen = Frozen(torch.empty(len(inputs.items), inputs.model.width), None if stage.train_embedder else proposal)
            counted = []
            for batch in islice(batches, COUNTED_STEPS):
                trains = stage.train_embedder
                scored = draw_trained_items(inputs, at, batch) if trains else draw_frozen_items(inputs, at, frozen)
                counted.append(step_flops(sizes, composition(batch, scored), trains_embedder=trains).total)
                queries.append(len(batch.window_Q))
            flops.append(float(np.mean(counted)))
    return flops, float(np.mean(queries))


def _metrics(settings: Settings, data: Data, model: Model) -> dict[str, float]:
    """Metrics of the validation part. Of a model that ages: of each period between the end of its training and the test part."""
    queries_of = PROTOCOLS["next-basket"]
    if not settings.periods:
        queries = sample(np.random.default_rng(0), queries_of(data.log, data.train_until_ms, data.test_from_ms), NUM_ANSWERS)
        return {name: value for name, value in _ranked(data, model, queries).items() if name in KEPT}
    bounds = np.linspace(data.train_until_ms, data.test_from_ms, settings.periods + 1).round().astype(np.int64)
    result: dict[str, float] = {}
    for begin, end in pairwise(bounds.tolist()):
        queries = same_users(queries_of(data.log, begin, end), data.log.num_users)
        week = (begin - data.train_until_ms) / WEEK_MS
        result |= {f"week {week:.1f}: {name}": value for name, value in _ranked(data, model, queries).items() if name in AGEING}
    return result


def same_users(queries: list[Query], num_users: int) -> list[Query]:
    """All queries of so many users that they have about NUM_ANSWERS answers: in every period the same users as far as they occur.

    Models of different ages are then asked about the same people, who differ more from each other than the models do.
    """
    place_U = np.random.default_rng(0).permutation(num_users)
    ordered = sorted(queries, key=lambda query: (place_U[query.user], query.num_known))
    enough = int(np.searchsorted(np.cumsum([len(query.answers) for query in ordered]), NUM_ANSWERS))
    last = place_U[ordered[min(enough, len(ordered) - 1)].user]
    return [query for query in queries if place_U[query.user] <= last]


def _ranked(data: Data, model: Model, queries: list[Query]) -> dict[str, float]:
    ranked = rank({"model": model}, data.log, queries, data.train_count_N)
    return point_metrics(ranked["model"], len(data.item_ids))


def ended(settings: Settings, outcome: Outcome, reason: str, begun: float | None = None) -> Run:
    """A run that measured nothing yet."""
    return Run(
        key=settings.key,
        sweep=settings.sweep,
        corpus=settings.corpus,
        flops=settings.flops,
        flops_exact=0.0,
        parameters=0,
        share=settings.share,
        events=0,
        distinct_events=0,
        batch=0,
        negatives=settings.negatives or 0,
        log_q=settings.log_q,
        seed=settings.seed,
        seconds=0.0 if begun is None else time.monotonic() - begun,
        outcome=outcome,
        reason=reason,
        settings=msgspec.to_builtins(settings),
    )
