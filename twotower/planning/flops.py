"""FLOPs of a training step, term by term, in closed form.

A multiply-add is 2 FLOPs. Backward, a product of matrices costs twice what it cost forward: once for the gradient of each side.
It costs the same as forward where one side needs no gradient, because it is data (times of events) or frozen (items of stage
2). Attention computes its weights again in the backward pass; the loss of stage 2 needs no backward pass at all, because it
computes gradients while it has the scores.

Counted are products of matrices, and the sums over single rows that are as large: lookups in hash tables, and the popularity
columns of scores. Not counted is what works on each number alone: norms, activations, softmax, dropout, the optimizer, and the
scores of single pairs such as the answers'. C = 6 N D, the convention of scaling laws, stands beside it as `model_flops`.

T: event positions, Q: queries, M: pairs of a query and one of its past items, U: distinct past items, C: candidates,
D: width
"""

import msgspec

from twotower.data.item_statistics import NUM_PAST_FEATURES
from twotower.planning.compute_optimal import FLOPS_PER_PARAMETER_AND_EVENT
from twotower.planning.sizes import FIELD_LAYERS, Sizes, contextualizer_parameters, embedder_parameters, repeat_input

TRAINED = 6  # FLOPs of a multiply-add: 2 forward, 4 backward
DATA = 4  # of one whose input needs no gradient
ATTENDED = 14  # of a pair of positions and a number of the width: 2 products forward, and 5 backward with the weights again
FROZEN_SCORE, TRAINED_SCORE = 4, 6  # of a score and a number of the width, with the gradients
RECOMPUTED_SCORE = 8  # of stage 1 on a GPU, which computes scores again for the gradient of the candidates
LOOKED_UP = 4  # of a hash slot and a number of its row: weighted and added, forward and backward


class Composition(msgspec.Struct, frozen=True, kw_only=True):
    """What one step reads and scores: counts, which may be means."""

    events: float = 0.0  # of histories, without padding: what D counts
    positions: float  # of events, the padding included that is computed
    attention_pairs: float  # of an event and each one that it may read: L (L + 1) / 2 of a history
    queries: float
    candidates: float  # that each query is scored against
    past_items: float = 0.0  # pairs of a query and one of its past items
    past_pairs: float = 0.0  # pairs that attention over past items multiplies: on a CPU all those of a block of queries
    distinct_past: float = 0.0  # distinct past items, each projected once; in stage 1 all candidates are
    distinct_items: float = 0.0  # that the embedder embeds; 0 in stage 2, which freezes it
    missing_pairs: float = 0.0  # scores of stage 2 beside its pool: of past items and answers that were not drawn


class StepFlops(msgspec.Struct, frozen=True, kw_only=True):
    """The FLOPs of one training step, forward and backward."""

    layers: float  # linear layers of the contextualizer's blocks
    attention: float  # over events
    event_input: float  # context features of the events
    past_attention: float
    query_head: float  # query vectors and the MLP of popularity
    repeat_scores: float
    embedder: float
    scoring: float
    lookups: float  # in hash tables
    popularity: float  # columns of the scores

    @property
    def products(self) -> float:
        """Those of products of matrices, which a counter of operations sees."""
        return self.total - self.lookups - self.popularity

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(msgspec.structs.astuple(self)))


def step_flops(sizes: Sizes, batch: Composition, *, trains_embedder: bool, recomputes: bool = False) -> StepFlops:
    """A step of stage 1 (`trains_embedder`) or of stage 2. `recomputes`: as on a GPU, where stage 1 computes scores twice."""
    d, x, f, queries, past = sizes.width, sizes.query_input, sizes.ffn_width, batch.queries, batch.past_items
    heads = (sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_width
    item, hidden, rank = sizes.repeat_item_width, sizes.repeat_hidden, sizes.repeat_rank
    repeat_mlp = (repeat_input(sizes) + hidden + 1) * hidden
    request = sizes.request_width * d if sizes.clock else 0
    scored = (RECOMPUTED_SCORE if recomputes else TRAINED_SCORE) if trains_embedder else FROZEN_SCORE
    scores = queries * batch.candidates + batch.missing_pairs
    return StepFlops(
        layers=TRAINED * batch.positions * sizes.num_layers * d * (heads + d + 3 * f),
        attention=ATTENDED * batch.attention_pairs * sizes.num_layers * d,
        event_input=DATA * batch.positions * sizes.context_input * d,
        past_attention=past_attention_flops(sizes, batch) if sizes.past_heads else 0.0,
        query_head=TRAINED * queries * (request + (x + sizes.num_popularity) * sizes.popularity_hidden),
        repeat_scores=TRAINED * (batch.distinct_past * d * item + past * repeat_mlp + queries * x * rank)
        + DATA * past * NUM_PAST_FEATURES * rank,
        embedder=batch.distinct_items * embedder_flops(sizes) if trains_embedder else 0.0,
        scoring=scored * scores * d,
        lookups=lookup_flops(sizes, batch, trains_embedder),
        popularity=FROZEN_SCORE * scores * sizes.num_popularity,
    )


def past_attention_flops(sizes: Sizes, batch: Composition) -> float:
    """Attention over past items: projections of queries and of distinct items, the bias of each pair, two products."""
    d, keys = sizes.width, sizes.past_heads * sizes.past_key_width
    of_queries = batch.queries * (sizes.query_input * keys + d * d)
    of_items = batch.distinct_past * (keys + d) * d
    of_pairs = batch.past_pairs * (keys + d)
    return TRAINED * (of_queries + of_items + of_pairs) + DATA * batch.past_items * NUM_PAST_FEATURES * sizes.past_heads


def embedder_flops(sizes: Sizes, *, trained: bool = True) -> float:
    """Products of matrices for one item, forward and backward, or forward alone."""
    d, e, fields = sizes.width, sizes.table_dim, sizes.item_fields
    mlp = (sizes.embedder_input + d) * sizes.embedder_hidden
    linear, attended = (TRAINED, ATTENDED) if trained else (2, 4)
    match sizes.embedder:
        case "mlp":
            return float(linear * mlp)
        case "tab_transformer":
            return float(linear * (mlp + FIELD_LAYERS * fields * 12 * e * e) + attended * FIELD_LAYERS * fields * fields * e)
        case "bag":
            return float((DATA if trained else 2) * sizes.item_dense * d)
    raise ValueError(f"the embedder {sizes.embedder!r} has no closed form: take mlp, tab_transformer or bag")


def lookup_flops(sizes: Sizes, batch: Composition, trains_embedder: bool) -> float:
    """Adds of hash-table rows: the context of events and queries and, in stage 1, the items."""
    row = sizes.width if sizes.embedder == "bag" else sizes.table_dim
    items = batch.distinct_items * sizes.item_slots * row if trains_embedder else 0.0
    contexts = batch.positions * sizes.context_slots + batch.queries * sizes.wanted_slots
    return LOOKED_UP * (items + contexts * sizes.width)


def encode_flops(sizes: Sizes, num_items: float) -> float:
    """Embed every item once, as before stage 2 and every night: forward alone."""
    row = sizes.width if sizes.embedder == "bag" else sizes.table_dim
    return num_items * (embedder_flops(sizes, trained=False) + 2 * sizes.item_slots * row)


def model_flops(sizes: Sizes, events: float) -> float:
    """C = 6 N D, with the parameters of both towers."""
    return FLOPS_PER_PARAMETER_AND_EVENT * (contextualizer_parameters(sizes) + embedder_parameters(sizes)) * events
