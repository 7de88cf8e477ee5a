"""Parameter budgets: the embedder, with its hash table, gets a fixed share of all trainable parameters."""

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from training.recipes.config import TrainConfig
from training.recipes.embedder_check import check_embedder
from twotower.data.features import FeatureSpec
from twotower.errors import DataError
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import KINDS, build_embedder, embedder_class

TABLE_SHARE = 0.35  # of the embedder's budget; with fewer rows, rare items collide in the hash table
MIN_TABLE_ROWS = 64
MIN_HIDDEN = 8
WIDTHS = (*range(32, 256, 8), *range(256, 1024, 32), *range(1024, 8193, 128))  # from which `shape_for` chooses
HEAD_WIDTH, ASPECT, TOLERANCE = 32, 32, 0.05
CONTEXT_TABLE_ROWS = 256  # event types, channels and the like; part of the contextualizer


class Shape(NamedTuple):
    """The sizes of the contextualizer, named as in TrainConfig."""

    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int


class ParameterCount(NamedTuple):
    """Trainable parameters of both towers."""

    embedder: int
    contextualizer: int

    @property
    def share(self) -> float:
        """The embedder's share of the sum."""
        return self.embedder / (self.embedder + self.contextualizer)


def size_model(
    config: TrainConfig, item_spec: FeatureSpec, context_spec: FeatureSpec, num_signals: int = 0, clock: bool = True
) -> ModelConfig:
    """The contextualizer of the config, and an embedder that gets `embedder_share` of all parameters."""
    model = ModelConfig(
        item_spec=item_spec,
        context_spec=context_spec,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        ffn_width=ffn_width(config.width),
        past_heads=config.past_heads,
        context_table_rows=CONTEXT_TABLE_ROWS,
        window=config.window,
        page=config.page,
        num_popularity=len(config.half_lives_days) + num_signals,
        embedder=config.embedder,
        clock=clock,
    )
    if config.embedder not in KINDS:
        check_embedder(embedder_class(config.embedder), model)
    return fit_embedder(model, config.embedder_share)


def shape_for(parameters: float, share: float) -> Shape:
    """A shape whose total, embedder included, is within 5 % of `parameters`; event features may add another 5 %.

    Of all such shapes, the one whose ratio of width to layers is nearest to that of the recipes measured here (128 to 4). Heads
    are about 32 wide, as there, and pairs of heads share keys and values. ValueError for a size that no shape has.
    """
    wanted = parameters * (1 - share)
    usual = bisect_left(WIDTHS, wanted, key=lambda width: count_contextualizer(_shape(width, max(1, width // ASPECT))))
    middle = WIDTHS[min(usual, len(WIDTHS) - 1)]
    close: dict[Shape, float] = {}
    for width in (w for w in WIDTHS if middle / 2 <= w <= 2 * middle):
        one, two = (count_contextualizer(_shape(width, num_layers)) for num_layers in (1, 2))
        layers = max(1, round((wanted - one) / (two - one)) + 1)
        if abs(one + (layers - 1) * (two - one) - wanted) <= TOLERANCE * wanted:
            close[_shape(width, layers)] = abs(math.log(width / layers / ASPECT))
    if not close:
        smallest = count_contextualizer(_shape(WIDTHS[0], 1)) / (1 - share)
        raise ValueError(
            f"no model has about {parameters:,.0f} parameters: the smallest has {smallest:,.0f}, and none is more than "
            f"{WIDTHS[-1]} wide. Give another budget."
        )
    return min(close, key=lambda shape: close[shape])


def _shape(width: int, num_layers: int) -> Shape:
    """The shape of a width and a depth, with the usual heads."""
    heads = [h for h in range(2, width // 2 + 1, 2) if width % (2 * h) == 0]
    num_heads = min(heads, key=lambda h: abs(math.log(width / h / HEAD_WIDTH)))
    return Shape(width, num_layers, num_heads, num_heads // 2)


def count_contextualizer(shape: Shape) -> int:
    """Parameters of a contextualizer whose events have only a type. A numeric feature adds about ten times the width."""
    nothing = FeatureSpec(fields=())
    model = ModelConfig(
        item_spec=nothing,
        context_spec=nothing,
        **shape._asdict(),
        ffn_width=ffn_width(shape.width),
        context_table_rows=CONTEXT_TABLE_ROWS,
    )
    with torch.device("meta"):
        return _count(Contextualizer(model))


def ffn_width(width: int) -> int:
    """Hidden width of SwiGLU: 8/3 of the width, so that its three matrices cost as much as two of four widths (Shazeer 2020)."""
    return width * 8 // 3 // 8 * 8


def fit_embedder(model: ModelConfig, share: float) -> ModelConfig:
    """`embedder_hidden` and `table_rows` such that an embedder of any kind has at most `share` of all parameters.

    Sizes are found by counting the parameters of the real module: the width takes what `TABLE_SHARE` leaves, then rows fill the
    budget. DataError when even the smallest embedder is too large.
    """
    budget = share / (1 - share) * count_parameters(model).contextualizer
    table = MIN_TABLE_ROWS * model.table_dim

    def size(hidden: int, rows: int) -> int:
        return count_embedder(replace(model, embedder_hidden=hidden, table_rows=rows))

    if (smallest := size(MIN_HIDDEN, MIN_TABLE_ROWS)) > budget:
        own = "" if model.embedder in KINDS else "size its layers by config.embedder_hidden and its table by config.table_rows, "
        raise DataError(
            f"{share:.1%} of this model is {budget:,.0f} parameters, and at its smallest the embedder {model.embedder!r} needs "
            f"{smallest:,} for {len(model.item_spec.fields)} features ({model.item_spec.dense_width} dense columns): {own}"
            f"widen the model, give it more with --embedder-share, or drop features."
        )
    widths = range(MIN_HIDDEN, max(MIN_HIDDEN, int(budget / model.width)) + 1, 4)
    width_budget = min(budget * (1 - TABLE_SHARE), budget - table)
    fitting = bisect_right(widths, width_budget, key=lambda hidden: size(hidden, MIN_TABLE_ROWS) - table)
    hidden = widths[max(0, fitting - 1)]
    rows = range(MIN_TABLE_ROWS, max(MIN_TABLE_ROWS, int(budget / model.table_dim)) + 1)
    fitting = bisect_right(rows, budget, key=lambda num_rows: size(hidden, num_rows))
    return replace(model, embedder_hidden=hidden, table_rows=rows[fitting - 1])


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Trainable parameters of both towers, counted without allocating them."""
    with torch.device("meta"):
        return ParameterCount(count_embedder(model), _count(Contextualizer(model)))


def count_embedder(model: ModelConfig) -> int:
    """Trainable parameters of the embedder, counted without allocating them."""
    with torch.device("meta"):
        return _count(build_embedder(model))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
