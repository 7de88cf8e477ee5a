import numpy as np
import pytest
import torch

from benchmarks.training_rivals.peer_queries import ndcg10


def test_ndcg_discounts_by_place_over_an_ideal_order() -> None:
    scores_QK = torch.arange(12.0, 0, -1).repeat(2, 1)  # the first item is the best of twelve

    found = ndcg10(scores_QK, [np.array([1]), np.array([0, 11])])

    first = 1 / np.log2(3)
    second = 1 / (1 + 1 / np.log2(3))
    assert found == pytest.approx((first + second) / 2)
