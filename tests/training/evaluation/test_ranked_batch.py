"""The ranks of a batch come out alike where the scores lie in the processor's memory and where they lie on a device."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.evaluation.ranked_batch import ANSWERS_AT_ONCE, NOT_FINITE, rank_on_cpu, rank_on_device

NUM_ITEMS = 60


def scores(*, seed: int) -> Tensor:
    """Many of them tie."""
    return torch.randint(0, 25, (3, NUM_ITEMS), generator=torch.Generator().manual_seed(seed)).float() / 4


ANSWERS = [np.array([4, 9]), np.arange(ANSWERS_AT_ONCE + 3), np.array([59])]
PAST = [np.array([1, 4, 30]), np.zeros(0, np.int64), np.array([59, 3])]


@pytest.mark.parametrize("has_probabilities", [True, False])
@pytest.mark.parametrize("is_masked", [[False] * 3, [True] * 3])
def test_both_give_the_same(has_probabilities: bool, is_masked: list[bool]) -> None:
    expected = rank_on_cpu(scores(seed=0), ANSWERS, PAST, is_masked, has_probabilities)
    found = rank_on_device(scores(seed=0), ANSWERS, PAST, is_masked, has_probabilities)
    for name in ("rank_A", "unseen_rank_A", "local_rank_A", "top10_QK"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    for name in ("nll_A", "local_nll_A", "entropy_Q"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, err_msg=name)
        assert getattr(found, name).dtype == np.float64


def test_ranks_count_better_items_and_half_of_those_that_tie() -> None:
    scores_QN = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0]])
    found = rank_on_device(scores_QN, [np.array([2])], [np.array([0, 3])], [False], True)
    assert found.rank_A.tolist() == [3.0]
    assert found.unseen_rank_A.tolist() == [1.5]
    assert found.top10_QK[0, 0] == 0


@pytest.mark.parametrize("rank", [rank_on_cpu, rank_on_device])
def test_scores_that_are_not_finite_are_refused(rank: object) -> None:
    broken = scores(seed=1)
    broken[1, 5] = torch.nan
    assert callable(rank)
    with pytest.raises(ValueError, match=NOT_FINITE):
        rank(broken, ANSWERS, PAST, [False] * 3, True)
