"""Which items a step scores, and how the softmax is corrected for that choice.

Stage 1 cannot embed the whole catalogue at every step, because that would cost too much. It scores the union of the batch's
past items, its answers and `num_uniform` uniform draws, each once. The exponential of an item that is in this set with
probability pi weighs 1/pi (Horvitz and Thompson 1952). Without that, popular items would get scores that are too low, because
they are drawn more often.

Stage 2 reads cached vectors, so it can score the whole catalogue, or a pool drawn from it. Each item is drawn into the pool
independently, with its own probability (Poisson sampling), so no item is drawn twice and the weight 1/pi is exact.

N: items, C: candidates
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.batches import BatchSampler, TrainBatch
from training.recipes.config import Negatives, StageConfig
from twotower.data.features import Floats, Ints


@dataclass(frozen=True, slots=True)
class Candidates:
    """Sorted distinct rows, and what is added to their scores: -log of the probability to be drawn, or 0 if uncorrected."""

    rows_C: Ints
    log_weight_C: Floats

    def column_of(self, rows: Tensor) -> Tensor:
        """Index of each catalogue row in the set. A row outside it gets an arbitrary index: such rows are padding, never read."""
        asked = rows.numpy()
        column_R = np.zeros(max(int(self.rows_C[-1]), int(asked.max(initial=0))) + 1, np.int64)
        column_R[self.rows_C] = np.arange(len(self.rows_C))  # a table, because a bisection for every row takes ten times as long
        return torch.from_numpy(column_R[asked])


def owner_share(sampler: BatchSampler, num_items: int) -> npt.NDArray[np.float64]:
    """Probability [N] that a randomly drawn window has the item in its history, past items or answers.

    An item that first occurs in basket b is there if the window ends at b or later. `BatchSampler` says how ends are drawn.
    """
    share_N = np.zeros(num_items)
    for user in np.flatnonzero(sampler.share_U).tolist():
        bounds = sampler.bounds(user)
        rows, first = np.unique(sampler.log.item_rows_E[bounds[0] : bounds[-1]], return_index=True)
        basket = np.searchsorted(bounds, bounds[0] + first, "right") - 1
        width = sampler.baskets_of_window(bounds)
        share_N[rows] += sampler.share_U[user] * np.where(basket <= width, 1.0, 1 - basket / (len(bounds) + width))
    return np.minimum(share_N, 1.0)


def certain_items(batch: TrainBatch, drawn: Candidates) -> Tensor:
    """Mask [B, C] of the candidates that each window contributes, which are certain to be candidates of its queries.

    Every item of the window counts, not only those that a query knows: a later purchase is a candidate of earlier queries too.
    """
    rows_BL, lengths_B = batch.histories.item_rows_BL, batch.histories.lengths_B
    certain_BC = torch.zeros(len(lengths_B), len(drawn.rows_C), dtype=torch.bool)
    is_item_BL = (torch.arange(rows_BL.shape[1]) < lengths_B[:, None]) & (rows_BL >= 0)
    window, place = torch.nonzero(is_item_BL, as_tuple=True)
    certain_BC[window, drawn.column_of(rows_BL[window, place])] = True
    certain_BC[batch.window_Q[batch.past.request_M], drawn.column_of(batch.past.rows_M)] = True
    certain_BC[batch.window_Q[batch.answer_query_A], drawn.column_of(batch.answer_rows_A)] = True
    return certain_BC


def draw_candidates(
    rng: np.random.Generator, batch: TrainBatch, owner_share_N: npt.NDArray[np.float64], num_uniform: int, num_windows: int
) -> Candidates:
    """The candidates of a batch, with weights for a query: an item is drawn uniformly or contributed by another window."""
    num_items = len(owner_share_N)
    drawn = rng.choice(num_items, min(num_uniform, num_items), replace=False, shuffle=False)
    histories = batch.histories
    rows_BL = histories.item_rows_BL.numpy()
    is_item_BL = (np.arange(rows_BL.shape[1]) < histories.lengths_B.numpy()[:, None]) & (rows_BL >= 0)
    of_batch = [batch.past.rows_M.numpy(), batch.answer_rows_A.numpy(), rows_BL[is_item_BL]]
    chosen_N = np.zeros(num_items, bool)
    for rows in (drawn, *of_batch):
        chosen_N[rows] = True
    rows_C = np.flatnonzero(chosen_N)
    stays_out = (1 - min(num_uniform / num_items, 1.0)) * (1 - owner_share_N[rows_C]) ** (num_windows - 1)
    return Candidates(rows_C, (-np.log(1 - stays_out)).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Proposal:
    """How a pool is drawn: the probability of every item to be in it, and its log weight if it is."""

    inclusion_N: npt.NDArray[np.float64]
    log_weight_N: Floats

    def draw(self, rng: np.random.Generator) -> Candidates:
        """Draw a pool. Its mean size is the sum of the probabilities; the standard deviation is at most that sum's root."""
        rows_C = np.flatnonzero(rng.random(len(self.inclusion_N)) < self.inclusion_N)
        return Candidates(rows_C, self.log_weight_N[rows_C])


def propose(stage: StageConfig, owner_share_N: npt.NDArray[np.float64]) -> Proposal | None:
    """How a stage with a frozen embedder draws its negatives; None if it scores the whole catalogue."""
    if stage.num_negatives is None or stage.num_negatives >= len(owner_share_N):
        return None
    return PROPOSALS[stage.negatives](owner_share_N, stage.num_negatives)


def uniform(owner_share_N: npt.NDArray[np.float64], size: int) -> Proposal:
    """All items with equal probability and weight. The pool's sum estimates that of the catalogue without bias."""
    inclusion_N = np.full(len(owner_share_N), size / len(owner_share_N))
    return Proposal(inclusion_N, -np.log(inclusion_N).astype(np.float32))


def popular(owner_share_N: npt.NDArray[np.float64], size: int) -> Proposal:
    """Half in proportion to popularity, half uniformly, corrected by logQ, so without bias too.

    The uniform half keeps weights below twice those of a uniform pool (a defensive mixture: Hesterberg 1995).
    """
    inclusion_N = inclusion_probabilities(owner_share_N / owner_share_N.sum() + 1 / len(owner_share_N), size)
    return Proposal(inclusion_N, -np.log(inclusion_N).astype(np.float32))


def popular_uncorrected(owner_share_N: npt.NDArray[np.float64], size: int) -> Proposal:
    """The pool of `popular` without the correction: the loss is biased, as if popular items were several. To compare with."""
    return Proposal(popular(owner_share_N, size).inclusion_N, np.zeros(len(owner_share_N), np.float32))


PROPOSALS: dict[Negatives, Callable[[npt.NDArray[np.float64], int], Proposal]] = {
    "uniform": uniform,
    "popular": popular,
    "popular_uncorrected": popular_uncorrected,
}


def inclusion_probabilities(sizes_N: npt.NDArray[np.float64], expected: int) -> npt.NDArray[np.float64]:
    """Probabilities proportional to the positive `sizes_N` but at most 1, with the sum `expected` (< N)."""
    descending = np.sort(sizes_N)[::-1]
    rest = np.cumsum(descending[::-1])[::-1]  # sum of the sizes from each place on
    scale = (expected - np.arange(expected)) / rest[:expected]
    certain = int(np.argmax(scale * descending[:expected] <= 1))
    inclusion_N: npt.NDArray[np.float64] = np.minimum(scale[certain] * sizes_N, 1.0)
    return inclusion_N
