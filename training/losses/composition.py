"""What one step reads and scores, counted from its batch: the numbers that its FLOPs follow from.

B: windows, Q: queries, M: past items of all queries, U: distinct past items, K: candidates
"""

import torch
from torch import Tensor

from training.data.batches import TrainBatch
from training.kernels.softmax_tiles import MISSING_QUERIES
from training.losses.objective import FrozenItems, TrainedItems
from twotower.model.contextualizer import length_groups
from twotower.model.past_attention import Blocks
from twotower.planning.flops import Composition


def composition(batch: TrainBatch, items: TrainedItems | FrozenItems) -> Composition:
    """The counts of a step on a CPU. Padding counts where it is computed; attention is causal."""
    histories, past, num_queries = batch.histories, batch.past, len(batch.window_Q)
    groups = [(len(members), length) for members, length in length_groups(histories.lengths_B, histories.item_rows_BL.shape[1])]
    read: Tensor = past.rows_M
    rows_U, item_M = torch.unique(read, return_inverse=True)
    num_projected, num_missing = len(rows_U), 0
    if isinstance(items, TrainedItems):
        num_projected = num_candidates = len(items.drawn.rows_C)
        item_M = items.drawn.column_of(read)
    elif items.drawn is None:
        num_candidates = len(items.vectors_ND)
    else:
        num_candidates = len(items.drawn.rows_C)
        num_missing = missing_pairs(batch, torch.from_numpy(items.drawn.rows_C))
    blocks = Blocks.of(past.request_M, item_M, num_queries, num_projected)
    return Composition(
        events=int(histories.lengths_B.sum()),
        positions=sum(count * length for count, length in groups),
        attention_pairs=sum(count * length * (length + 1) / 2 for count, length in groups),
        queries=num_queries,
        candidates=num_candidates,
        past_items=len(read),
        past_pairs=sum(requests * found for requests, found in zip(blocks.num_requests, blocks.num_items, strict=True)),
        distinct_past=num_projected,
        distinct_items=num_queries_embedded(batch, items) + (num_candidates if isinstance(items, TrainedItems) else 0),
        missing_pairs=num_missing,
    )


def num_queries_embedded(batch: TrainBatch, items: TrainedItems | FrozenItems) -> int:
    """How many queries of searches the embedder reads."""
    return len(batch.searches) + (0 if items.named is None else len(items.named.queries))


def missing_pairs(batch: TrainBatch, rows_K: Tensor) -> int:
    """Scores beside a pool: a block of queries scores all its past items and answers that were not drawn."""
    query_M = torch.cat([batch.past.request_M, batch.answer_query_A])
    rows_M = torch.cat([batch.past.rows_M, batch.answer_rows_A])
    missing = ~torch.isin(rows_M, rows_K)
    query_M, rows_M = query_M[missing], rows_M[missing]
    total = 0
    for start in range(0, len(batch.window_Q), MISSING_QUERIES):
        here = (query_M >= start) & (query_M < start + MISSING_QUERIES)
        total += min(MISSING_QUERIES, len(batch.window_Q) - start) * len(torch.unique(rows_M[here]))
    return total
