"""Recipes: functions that return the configuration of a run. Each says which metric it was chosen by."""

import math
from collections.abc import Callable

import msgspec

from training.recipes.config import Negatives, StageConfig, TrainConfig


def demo(minutes: float = 3.0) -> TrainConfig:
    """A few minutes on two cores, for the demo: chosen by next-basket NDCG@10 on Complete Journey's November.

    Such a short run reads only a fraction of the events, each once. So it needs no regularisation and a learning rate five times
    the default. Measured in two minutes each on 600 households, before the model attended to past items: 2e-3 with dropout .1
    gave NDCG@10 .216; without dropout 5e-3 gave .228, and 1e-2 gave .227 at a lower set loss (8.61 against 8.64 nats).
    """
    return TrainConfig(
        metric="next-basket NDCG@10",
        minutes=minutes,
        learning_rate=1e-2,
        dropout=0.0,
        stages=(
            StageConfig(share=0.6, num_negatives=4096, train_embedder=True),
            StageConfig(share=0.4, num_negatives=None, train_embedder=False),
        ),
    )


def complete_journey(minutes: float | None = None) -> TrainConfig:
    """The best model of grocery baskets that we found: chosen by next-basket NDCG@10 on Complete Journey's November.

    Limited by steps, so that the same seed gives the same weights; `minutes` limits it by the clock instead. It makes nearly two
    passes over the basket boundaries. On 3,000 of November's baskets, half as many steps gave NDCG@10 .255 instead of .258, and
    R@10 of new items .0161 instead of .0174. An embedder with 10 % of the parameters gave the same NDCG@10 (.258).
    """
    return TrainConfig(
        metric="next-basket NDCG@10",
        minutes=minutes,
        learning_rate=7e-3,
        dropout=0.1,
        stages=(
            StageConfig(share=0.6, num_negatives=4096, train_embedder=True, max_steps=_steps(840, minutes)),
            StageConfig(share=0.4, num_negatives=None, train_embedder=False, max_steps=_steps(560, minutes)),
        ),
    )


def leave_one_out(minutes: float | None = None) -> TrainConfig:
    """Leave-one-out of catalogues that describe little, such as Amazon Beauty: chosen by NDCG@10 on the events before the last.

    The embedder holds most of the parameters, not 2 %. The 12,101 items are described by categories and a brand alone, and 86 %
    of them share their description with others, so the model must learn item by item what tells them apart. There is no second
    stage. Nothing is bought again, so there is no attention over past items. The files have no times, so popularity counts all
    events.

    On validation (one seed; R@10, NDCG@10): 11 passes with dropout .2 gave .113 and .068, 23 with .4 gave .122 and .074, 34 with
    .5 gave .125 and .075. Weight decay of everything gave .126 and .076 after 29, and a set loss of 8.27 nats instead of 8.64.
    With attention over past items, activity and wanted event type, 23 passes with .4 gave .114 and .070. docs/quality.md lists
    what else was tried.
    """
    return TrainConfig(
        metric="leave-one-out NDCG@10",
        protocol="leave-one-out",
        minutes=minutes,
        width=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        past_heads=0,
        embedder="bag",
        embedder_share=0.975,
        batch_windows=256,
        max_queries=4096,
        learning_rate=1e-3,
        weight_decay=0.1,
        other_decay=0.5,
        dropout=0.5,
        id_dropout=0.0,
        window=64,
        page=16,
        half_lives_days=(36_500.0,),
        stages=(StageConfig(share=1.0, num_negatives=3000, train_embedder=True, max_steps=_steps(2500, minutes)),),
    )


def from_budget(flops: float = 1e15) -> TrainConfig:
    """The compute-optimal model for a budget of training FLOPs, by the published law, for next-basket recall@10.

    The model has N* parameters (2 % of them the embedder's) and reads D* events if all windows are full. A step scores all
    boundaries of eight windows: 2,048 where every event is a basket, the batch that Brüel Gabrielsson 2026 recommends. The plan
    counts 6 N D; scoring candidates comes on top, because it grows with their number and not with the model. Steps limit the
    run, not the clock, so the same seed gives the same weights. No searches are made up, because the law knows no table of their
    words.
    """
    from twotower.data.window import WINDOW  # which needs torch, for which `twotower train --help` should not wait
    from twotower.planning.compute_optimal import compute_optimal, num_negatives
    from twotower.planning.sizes import shape_for

    plan = compute_optimal(flops)
    windows = 8
    steps = plan.events / (windows * WINDOW)
    return TrainConfig(
        metric="next-basket recall@10",
        minutes=None,
        **shape_for(plan.parameters, share=0.02)._asdict(),
        embedder_share=0.02,
        batch_windows=windows,
        max_queries=windows * WINDOW,
        search_share=0.0,
        learning_rate=2e-3,
        stages=(
            StageConfig(share=0.6, num_negatives=4096, train_embedder=True, max_steps=math.ceil(0.6 * steps)),
            StageConfig(share=0.4, num_negatives=num_negatives(flops), train_embedder=False, max_steps=math.ceil(0.4 * steps)),
        ),
    )


def mup(flops: float = 1e15) -> TrainConfig:
    """`from_budget` under muP, to compare the two: at every width the learning rate is that of width 128.

    Not for serving: muP transfers rates, but plain truncated-normal reached a lower loss at every scale (Brüel Gabrielsson 2026).
    """
    return msgspec.structs.replace(from_budget(flops), mup_base_width=128)


def popular_negatives(flops: float = 1e15) -> TrainConfig:
    """`from_budget` with half of stage 2's negatives drawn by popularity, corrected by logQ, to compare with uniform ones."""
    return _with_negatives(from_budget(flops), "popular")


def uncorrected_negatives(flops: float = 1e15) -> TrainConfig:
    """`popular_negatives` without the correction, to measure its effect. Not for serving: the ranking it learns is biased."""
    return _with_negatives(from_budget(flops), "popular_uncorrected")


def _with_negatives(config: TrainConfig, negatives: Negatives) -> TrainConfig:
    """The config whose last stage draws its negatives in another way."""
    *others, last = config.stages
    return msgspec.structs.replace(config, stages=(*others, msgspec.structs.replace(last, negatives=negatives)))


def _steps(steps: int, minutes: float | None) -> int | None:
    """A stage's limit of steps; None if the clock limits the run."""
    return steps if minutes is None else None


RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "demo": demo,
    "from_budget": from_budget,
    "mup": mup,
    "popular_negatives": popular_negatives,
    "uncorrected_negatives": uncorrected_negatives,
    "complete_journey": complete_journey,
    "leave_one_out": leave_one_out,
}
