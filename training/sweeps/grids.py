"""The grids of a sweep: lists of runs that differ in size, embedder share, batch, negatives, or where their data end."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from msgspec.structs import replace

from training.sweeps.ledger import Settings
from twotower.data.window import WINDOW
from twotower.planning.sizes import Shape, count_contextualizer

LADDER = ("16x1", "24x1", "32x1", "48x1", "64x1", "64x2", "96x2", "128x2", "128x4", "192x4")  # width x layers
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.85)
BATCHES = (1, 2, 4, 8, 16, 32)  # windows a step
NEGATIVES = (64, 256, 1024, 4096, 16384)  # a step of stage 2
LEAST_EVENTS, MOST_EVENTS = (
    1e5,
    8e6,
)  # that an isoFLOP run reads: fewer are too few steps, and more take too long on a small machine
# How much of the training part is trained on, and in how many periods the rest is measured, up to the test part. Of a year whose
# last two months are validation and test these are months, so that models of different ages are measured in the same months.
AGES = ((0.4, 7), (0.7, 4), (1.0, 1))
HEAD_WIDTH = 32
QUERIES_PER_WINDOW = 20


class Grid(NamedTuple):
    """What a grid varies, and its name for a reader."""

    points: Callable[[Settings, Sequence[float], Sequence[Shape], Sequence[int]], list[Settings]]
    summary: str


def shape_of(text: str) -> Shape:
    """The sizes of a contextualizer, from a width and a number of layers such as `64x2`. ValueError for anything else."""
    width, cross, num_layers = text.partition("x")
    if not cross or not width.isdigit() or not num_layers.isdigit() or int(width) % 8 or min(int(width), int(num_layers)) < 1:
        raise ValueError(f"{text!r} is no shape: give a width that 8 divides and a number of layers, such as 64x2")
    num_heads = max(2, int(width) // HEAD_WIDTH // 2 * 2)
    return Shape(int(width), int(num_layers), num_heads, num_heads // 2)


def base(corpus: str, shape: Shape, window: int = WINDOW) -> Settings:
    """The settings that a grid starts from."""
    windows = 8 * WINDOW // window
    return Settings(
        sweep="",
        corpus=corpus,
        flops=0.0,
        **shape._asdict(),
        share=0.1,
        batch_windows=windows,
        max_queries=windows * QUERIES_PER_WINDOW,
        negatives=4096,
        log_q=True,
        window=window,
        page=window // 4,
    )


def isoflop(start: Settings, budgets: Sequence[float], shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Settings]:
    """Every size that reads a sensible number of events at a budget."""
    points = []
    for flops, shape, seed in product(budgets, shapes, seeds):
        events = flops / (6 * count_contextualizer(shape) / (1 - start.share))
        if LEAST_EVENTS <= events <= MOST_EVENTS:
            points.append(replace(start, sweep="isoflop", flops=flops, seed=seed, **shape._asdict()))
    return points


def share(start: Settings, budgets: Sequence[float], shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Settings]:
    """Every embedder share at each budget and size. The contextualizer is narrower the more the embedder gets."""
    points = []
    for flops, shape, share, seed in product(budgets, shapes, SHARES, seeds):
        sized = narrowed(shape, (1 - share) / (1 - SHARES[0]))
        points.append(replace(start, sweep="share", flops=flops, share=share, seed=seed, **sized._asdict()))
    return points


def narrowed(shape: Shape, factor: float) -> Shape:
    """The shape of as many layers that has nearest to `factor` times the parameters."""
    wanted = factor * count_contextualizer(shape)
    widths = [shape_of(f"{width}x{shape.num_layers}") for width in range(16, shape.width + 1, 8)]
    return min(widths, key=lambda one: abs(count_contextualizer(one) - wanted))


def batch(start: Settings, budgets: Sequence[float], shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Settings]:
    """Every batch at each budget and size; the learning rate follows the square root of the batch."""
    scale = WINDOW // start.window
    return [
        replace(
            start,
            sweep="batch",
            flops=flops,
            batch_windows=windows * scale,
            max_queries=windows * scale * QUERIES_PER_WINDOW,
            seed=seed,
            **shape._asdict(),
        )
        for flops, shape, windows, seed in product(budgets, shapes, BATCHES, seeds)
    ]


def negatives(start: Settings, budgets: Sequence[float], shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Settings]:
    """Every number of negatives after freezing, half of them drawn by popularity, with logQ correction and without."""
    return [
        replace(start, sweep="negatives", flops=flops, negatives=number, popular=True, log_q=log_q, seed=seed, **shape._asdict())
        for flops, shape, number, log_q, seed in product(budgets, shapes, NEGATIVES, (True, False), seeds)
    ]


def drift(start: Settings, budgets: Sequence[float], shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Settings]:
    """Models that are frozen early, later and at the end of the training part, and measured in every period after."""
    return [
        replace(start, sweep="drift", flops=flops, train_until=until, periods=periods, seed=seed, **shape._asdict())
        for flops, shape, (until, periods), seed in product(budgets, shapes, AGES, seeds)
    ]


GRIDS = {
    "isoflop": Grid(isoflop, "sizes at equal budgets, for the allocation law"),
    "share": Grid(share, "the embedder's share of the parameters"),
    "batch": Grid(batch, "windows a step, for the critical batch"),
    "negatives": Grid(negatives, "candidates after freezing, with logQ correction and without"),
    "drift": Grid(drift, "models that are frozen early, and how they age"),
}
