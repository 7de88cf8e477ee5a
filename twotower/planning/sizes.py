"""Sizes of the two towers, and their parameters in closed form: what the real modules hold, without making them.

N: parameters
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from twotower.data.features import EVENT_TIME_WIDTH, REQUEST_TIME_WIDTH
from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES

TABLE_SHARE = 0.35  # of the embedder's budget; with fewer rows, rare items collide in the hash table
MIN_TABLE_ROWS = 64
MIN_HIDDEN = 8
WIDTHS = (*range(32, 256, 8), *range(256, 1024, 32), *range(1024, 8193, 128))  # from which `shape_for` chooses
HEAD_WIDTH, ASPECT, TOLERANCE = 32, 32, 0.05
FIELD_LAYERS = 2  # blocks of the embedder `tab_transformer`


class Shape(NamedTuple):
    """The sizes of the contextualizer, named as in TrainConfig."""

    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that parameters and FLOPs follow from, named as in ModelConfig. Features are counts: their names say nothing.

    The defaults describe items with an id, a title of twelve tokens, three categories and a number of eight bins, and events
    with a type and nothing else.
    """

    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_width: int
    context_table_rows: int = 256
    context_input: int = EVENT_TIME_WIDTH  # dense features of one event, its time included
    context_slots: int = 2  # hash slots of one event
    wanted_slots: int = 2  # hash slots of the event type that a query asks for
    request_width: int = REQUEST_TIME_WIDTH + NUM_ACTIVITY_FEATURES  # features of a query's time and of its user's activity
    clock: bool = True
    past_heads: int = 4
    past_key_width: int = 16
    popularity_hidden: int = 64
    num_popularity: int = 2  # two half-lives, as in every recipe but one
    repeat_hidden: int = 32
    repeat_rank: int = 8
    repeat_item_width: int = 16
    embedder: str = "mlp"  # mlp, tab_transformer or bag: another has no closed form
    table_rows: int = MIN_TABLE_ROWS
    table_dim: int = 8
    embedder_hidden: int = MIN_HIDDEN
    item_fields: int = 5  # hashed fields of one item
    item_slots: int = 33  # hash slots of one item: 3 of its id, 2 for each other token
    item_dense: int = 9  # dense features of one item

    @property
    def head_width(self) -> int:
        """Width of one head of the attention over events."""
        return self.width // self.num_heads

    @property
    def query_input(self) -> int:
        """Width of the input of the query head."""
        return self.width + self.request_width

    @property
    def embedder_input(self) -> int:
        """Width of the pooled fields and dense features of one item."""
        return self.item_fields * self.table_dim + self.item_dense


def of_shape(shape: Shape) -> Sizes:
    """Sizes of a contextualizer, with the smallest embedder."""
    return Sizes(**shape._asdict(), ffn_width=ffn_width(shape.width))


def contextualizer_parameters(sizes: Sizes) -> int:
    """Trainable parameters of the contextualizer."""
    d, x, hidden = sizes.width, sizes.query_input, sizes.repeat_hidden
    event = sizes.context_table_rows * d + _linear(sizes.context_input, d) + d  # with the vector of an empty history
    heads = (sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_width
    block = 2 * d + d * heads + d * d + 3 * d * sizes.ffn_width
    keys = sizes.past_heads * sizes.past_key_width
    past = d + _linear(x, keys) + d * keys + _linear(NUM_PAST_FEATURES, sizes.past_heads) + 2 * d * d
    query = d + (sizes.request_width * d if sizes.clock else 0)
    popularity = _linear(x, sizes.popularity_hidden) + _linear(sizes.popularity_hidden, sizes.num_popularity)
    item = d + _linear(d, sizes.repeat_item_width)
    repeat = item + _linear(repeat_input(sizes), hidden) + _linear(hidden, hidden) + _linear(hidden, 1)
    interaction = _linear(x, sizes.repeat_rank) + _linear(NUM_PAST_FEATURES, sizes.repeat_rank)
    return event + sizes.num_layers * block + d + (past if sizes.past_heads else 0) + query + popularity + repeat + interaction


def embedder_parameters(sizes: Sizes) -> int:
    """Trainable parameters of the embedder. ValueError for a kind that has no closed form."""
    d, e = sizes.width, sizes.table_dim
    mlp = sizes.table_rows * e + _linear(sizes.embedder_input, sizes.embedder_hidden) + _linear(sizes.embedder_hidden, d)
    match sizes.embedder:
        case "mlp":
            return mlp
        case "tab_transformer":
            return mlp + sizes.item_fields * e + FIELD_LAYERS * (4 * e + 12 * e * e)
        case "bag":
            return sizes.table_rows * d + d + (_linear(sizes.item_dense, d) if sizes.item_dense else 0)
    raise ValueError(f"the embedder {sizes.embedder!r} has no closed form: take mlp, tab_transformer or bag")


def repeat_input(sizes: Sizes) -> int:
    """Width of the input of the MLP that gives repeat scores."""
    return NUM_PAST_FEATURES + NUM_ACTIVITY_FEATURES + sizes.num_popularity + sizes.repeat_item_width


def _linear(width_in: int, width_out: int) -> int:
    return (width_in + 1) * width_out


def ffn_width(width: int) -> int:
    """Hidden width of SwiGLU: 8/3 of the width, so that its three matrices cost as much as two of four widths (Shazeer 2020)."""
    return width * 8 // 3 // 8 * 8


def shape_for(parameters: float, share: float, tolerance: float = TOLERANCE) -> Shape:
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
        if abs(one + (layers - 1) * (two - one) - wanted) <= tolerance * wanted:
            close[_shape(width, layers)] = abs(math.log(width / layers / ASPECT))
    if not close:
        raise ValueError(
            f"no model has about {parameters:,.0f} parameters: the smallest has {smallest_model(share):,.0f}, and none is more "
            f"than {WIDTHS[-1]} wide. Give another budget."
        )
    return min(close, key=lambda shape: close[shape])


def smallest_model(share: float) -> float:
    """Parameters of the smallest shape, embedder included."""
    return count_contextualizer(_shape(WIDTHS[0], 1)) / (1 - share)


def _shape(width: int, num_layers: int) -> Shape:
    """The shape of a width and a depth, with the usual heads."""
    heads = [h for h in range(2, width // 2 + 1, 2) if width % (2 * h) == 0]
    num_heads = min(heads, key=lambda h: abs(math.log(width / h / HEAD_WIDTH)))
    return Shape(width, num_layers, num_heads, num_heads // 2)


def count_contextualizer(shape: Shape) -> int:
    """Parameters of a contextualizer whose events have only a type. A numeric feature adds about ten times the width."""
    return contextualizer_parameters(msgspec.structs.replace(of_shape(shape), num_popularity=1))


class EmbedderSizes(NamedTuple):
    """The sizes that give an embedder its share of the parameters."""

    embedder_hidden: int
    table_rows: int


def fill(budget: float, width: int, table_dim: int, size: Callable[[int, int], int]) -> EmbedderSizes | None:
    """The sizes of an embedder with at most `budget` parameters; None when even the smallest has more.

    `size(hidden, rows)` counts its parameters. The width takes what `TABLE_SHARE` leaves, then rows fill the budget.
    """
    if size(MIN_HIDDEN, MIN_TABLE_ROWS) > budget:
        return None
    table = MIN_TABLE_ROWS * table_dim
    widths = range(MIN_HIDDEN, max(MIN_HIDDEN, int(budget / width)) + 1, 4)
    width_budget = min(budget * (1 - TABLE_SHARE), budget - table)
    fitting = bisect_right(widths, width_budget, key=lambda hidden: size(hidden, MIN_TABLE_ROWS) - table)
    hidden = widths[max(0, fitting - 1)]
    rows = range(MIN_TABLE_ROWS, max(MIN_TABLE_ROWS, int(budget / table_dim)) + 1)
    fitting = bisect_right(rows, budget, key=lambda num_rows: size(hidden, num_rows))
    return EmbedderSizes(hidden, rows[fitting - 1])


def with_embedder(sizes: Sizes, share: float) -> Sizes:
    """The sizes with an embedder of at most `share` of all parameters; the smallest one where even that has more."""
    budget = share / (1 - share) * contextualizer_parameters(sizes)

    def size(hidden: int, rows: int) -> int:
        return embedder_parameters(msgspec.structs.replace(sizes, embedder_hidden=hidden, table_rows=rows))

    found = fill(budget, sizes.width, sizes.table_dim, size) or EmbedderSizes(MIN_HIDDEN, MIN_TABLE_ROWS)
    return msgspec.structs.replace(sizes, **found._asdict())
