"""Queries as a peer reads them, and the score by which it chooses its best epoch.

Q: queries, K: items that the peer knows
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from torch import Tensor


class Queries(NamedTuple):
    """Histories, oldest event first, with the time and the answers of each query."""

    items: list[npt.NDArray[np.int64]]
    times_ms: list[npt.NDArray[np.int64]]
    now_ms: npt.NDArray[np.int64]
    answers: list[npt.NDArray[np.int64]]


def read_queries(path: Path) -> Queries:
    """Read the queries that `benchmarks.training_rivals.export` wrote."""
    table = pq.read_table(path)
    columns = {name: [np.array(v, np.int64) for v in table[name].to_pylist()] for name in ("items", "times_ms", "answers")}
    return Queries(now_ms=table["now_ms"].to_numpy(), **columns)


def ndcg10(scores_QK: Tensor, answers: Sequence[npt.NDArray[np.int64]]) -> float:
    """Mean NDCG@10, over an ideal cut at min(answers, 10)."""
    top_QT = scores_QK.topk(min(10, scores_QK.shape[1])).indices.numpy()
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = [
        (np.isin(top, rows) * discounts[: len(top)]).sum() / discounts[: len(rows)].sum()
        for top, rows in zip(top_QT, answers, strict=True)
    ]
    return float(np.mean(gains))
