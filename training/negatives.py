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
    """Probability [N] that one randomly drawn window's user has had the item by the end of training."""
    share_N = np.zeros(num_items)
    for user in range(sampler.log.num_users):
        start = sampler.log.span(user)[0]
        share_N[np.unique(sampler.log.item_rows_E[start : sampler.stops_U[user]])] += sampler.share_U[user]
    return np.minimum(share_N, 1.0)


def draw_candidates(
    rng: np.random.Generator, batch: TrainBatch, owner_share_N: npt.NDArray[np.float64], num_uniform: int, num_windows: int
) -> Candidates:
    """The candidate set of a batch. The probability leaves out the query's own user, whose items are certain for it.

    Ownership is taken as of the end of training, so early windows are a little overcounted: a bias of the estimate that
    stage 2, which is exact, does not have.
    """
    num_items = len(owner_share_N)
    drawn = rng.choice(num_items, min(num_uniform, num_items), replace=False, shuffle=False)
    histories = batch.histories
    real_BL = np.arange(histories.item_rows_BL.shape[1]) < histories.lengths_B.numpy()[:, None]
    mine = [batch.own.rows_M.numpy(), batch.answer_rows_A.numpy(), histories.item_rows_BL.numpy()[real_BL]]
    rows_C = np.unique(np.concatenate([drawn, *mine]))
    stays_out = (1 - min(num_uniform / num_items, 1.0)) * (1 - owner_share_N[rows_C]) ** (num_windows - 1)
    return Candidates(rows_C, (-np.log(1 - stays_out)).astype(np.float32))
