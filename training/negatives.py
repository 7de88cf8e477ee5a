"""Which items a step scores, and what that choice does to the softmax.

Stage 1 cannot afford to embed a whole catalogue per step. It scores the union of the batch's own items, its answers and
`num_uniform` uniform draws, each once. An item that is in the set with probability pi stands for 1/pi items of its kind,
so its exponential weighs 1/pi (Horvitz and Thompson 1952); uncorrected, popular items would be punished for being drawn.

N: items, C: candidates
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.batches import BatchSampler, TrainBatch
from training.eventlog import basket_starts
from twotower.features import Floats, Ints


@dataclass(frozen=True, slots=True)
class Candidates:
    """Sorted distinct rows, and -log of each row's probability to be among them."""

    rows_C: Ints
    log_weight_C: Floats

    def column_of(self, rows: Tensor) -> Tensor:
        """Places of catalogue rows in the set; a row that is not in it gets some other place (padding is never read)."""
        return torch.from_numpy(np.searchsorted(self.rows_C, rows.numpy()).clip(max=len(self.rows_C) - 1))


def owner_share(sampler: BatchSampler, num_items: int) -> npt.NDArray[np.float64]:
    """Probability [N] that a randomly drawn window holds the item among its history, own items and answers.

    Window ends are uniform among a user's K baskets and their start, so an item first had in basket b is there in
    (K + 1 - b) of K + 1 windows.
    """
    share_N = np.zeros(num_items)
    for user in np.flatnonzero(sampler.share_U).tolist():
        start, stop = sampler.log.span(user)[0], int(sampler.stops_U[user])
        bounds = basket_starts(sampler.log.times_ms_E[start:stop])
        rows, first = np.unique(sampler.log.item_rows_E[start:stop], return_index=True)
        basket = np.searchsorted(bounds, first, "right") - 1
        share_N[rows] += sampler.share_U[user] * (1 - basket / (len(bounds) + 1))
    return np.minimum(share_N, 1.0)


def certain_items(batch: TrainBatch, drawn: Candidates) -> Tensor:
    """Which candidates each window [B, C] brought itself: for its queries they are there for certain, whatever was drawn.

    All of a window's own, not only what a query may know: an item bought later is a candidate of earlier queries too.
    """
    lengths_B = batch.histories.lengths_B
    certain_BC = torch.zeros(len(lengths_B), len(drawn.rows_C), dtype=torch.bool)
    window, place = torch.nonzero(torch.arange(batch.histories.item_rows_BL.shape[1]) < lengths_B[:, None], as_tuple=True)
    certain_BC[window, drawn.column_of(batch.histories.item_rows_BL[window, place])] = True
    certain_BC[batch.window_Q[batch.own.request_M], drawn.column_of(batch.own.rows_M)] = True
    certain_BC[batch.window_Q[batch.answer_query_A], drawn.column_of(batch.answer_rows_A)] = True
    return certain_BC


def draw_candidates(
    rng: np.random.Generator, batch: TrainBatch, owner_share_N: npt.NDArray[np.float64], num_uniform: int, num_windows: int
) -> Candidates:
    """The candidate set of a batch. The probability is that of a query's view: drawn, or brought by another window."""
    num_items = len(owner_share_N)
    drawn = rng.choice(num_items, min(num_uniform, num_items), replace=False, shuffle=False)
    histories = batch.histories
    real_BL = np.arange(histories.item_rows_BL.shape[1]) < histories.lengths_B.numpy()[:, None]
    mine = [batch.own.rows_M.numpy(), batch.answer_rows_A.numpy(), histories.item_rows_BL.numpy()[real_BL]]
    rows_C = np.unique(np.concatenate([drawn, *mine]))
    stays_out = (1 - min(num_uniform / num_items, 1.0)) * (1 - owner_share_N[rows_C]) ** (num_windows - 1)
    return Candidates(rows_C, (-np.log(1 - stays_out)).astype(np.float32))
