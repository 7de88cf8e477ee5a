"""Past items, the items that users had before, in the form that the model reads: one row each, over several requests.

Q: requests, M: past items of all requests, U: distinct ones, D: item vector width, P: popularity dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.data.features import Ints
from twotower.data.item_statistics import ItemStatistics, activity_features, past_features


@dataclass(frozen=True, slots=True)
class PastItems:
    """Past items sorted by request and then by row, and the activity features of each request."""

    rows_M: Tensor
    request_M: Tensor  # the request of each past item
    features_M6: Tensor
    activity_Q6: Tensor


class PastVectors(NamedTuple):
    """Vectors of past items: each distinct item once, and the popularity of each on the day of its request."""

    items_UD: Tensor
    item_M: Tensor  # row of each past item in `items_UD`
    popularity_MP: Tensor

    @staticmethod
    def of(vectors_ND: Tensor, rows_M: Tensor, popularity_MP: Tensor) -> "PastVectors":
        """The vectors of catalogue rows, each distinct row taken once."""
        rows_U, item_M = torch.unique(rows_M, return_inverse=True)
        return PastVectors(vectors_ND[rows_U], item_M, popularity_MP)


def past_items(request_M: Ints, statistics: ItemStatistics, now_ms_Q: Ints) -> PastItems:
    """Past items of several requests, each at its moment. `statistics` has the rows of one request after those of another."""
    return PastItems(
        torch.from_numpy(statistics.item_rows_M),
        torch.from_numpy(request_M),
        torch.from_numpy(past_features(statistics, now_ms_Q[request_M])),
        torch.from_numpy(activity_features(statistics, request_M, now_ms_Q)),
    )


def join_statistics(parts: Sequence[ItemStatistics]) -> tuple[Ints, ItemStatistics]:
    """The statistics of several users one after the other, and the number of the user of each row."""
    request_M = np.repeat(np.arange(len(parts)), [len(s) for s in parts])
    joined = ItemStatistics(
        np.concatenate([s.item_rows_M for s in parts]),
        np.concatenate([s.count_M for s in parts]),
        np.concatenate([s.first_ms_M for s in parts]),
        np.concatenate([s.last_ms_M for s in parts]),
        np.concatenate([s.decayed_M3 for s in parts]),
    )
    return request_M, joined
