"""Maximal marginal relevance, worked by hand on arrows in the plane."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ranking.diversity import diversify
from twotower.data.features import Floats

# East, nearly east, north, west: the best-scored first.
ARROWS_CD = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
SCORES_C = np.array([9, 8, 5, 1], np.float32)


@pytest.mark.parametrize(
    ("diversity", "places"),
    [
        (0.0, [0, 1, 2, 3]),
        # relevance 1, .875, .5, 0. Second place: .4375 - .4, .25 - 0, 0 + .5. Third: .4375 - .4, .25 - 0.
        (0.5, [0, 3, 2, 1]),
        # Second place: .7 * .875 - .3 * .8 = .3725, .35, .3. Third: .35 - .3 * .6 = .17, 0 + .3 * .8 = .24.
        (0.3, [0, 1, 3, 2]),
        (1.0, [0, 3, 2, 1]),  # the first has nothing to differ from
    ],
)
def test_the_next_item_is_the_best_of_relevant_and_unlike(diversity: float, places: list[int]) -> None:
    assert diversify(ARROWS_CD, SCORES_C, diversity, 4).tolist() == places


def test_equal_scores_and_no_candidates_are_answered() -> None:
    assert diversify(ARROWS_CD, np.ones(4, np.float32), 0.2, 2).tolist() == [0, 3]
    assert diversify(ARROWS_CD[:0], SCORES_C[:0], 0.2, 2).tolist() == []


def random_candidates(seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    vectors_CD = rng.normal(size=(60, 8)).astype(np.float32)
    return vectors_CD / np.linalg.norm(vectors_CD, axis=1, keepdims=True), np.sort(rng.normal(size=60).astype(np.float32))[::-1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), diversity=st.floats(0, 1), k=st.integers(0, 70))
def test_a_longer_answer_begins_as_a_shorter_one_and_names_no_item_twice(seed: int, diversity: float, k: int) -> None:
    vectors_CD, scores_C = random_candidates(seed)
    longest = diversify(vectors_CD, scores_C, diversity, 60).tolist()
    assert diversify(vectors_CD, scores_C, diversity, k).tolist() == longest[:k]
    assert sorted(longest) == list(range(60))


@given(seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_without_diversity_the_ranking_stays_as_it_is(seed: int) -> None:
    vectors_CD, scores_C = random_candidates(seed)
    assert diversify(vectors_CD, scores_C, 0.0, 60).tolist() == list(range(60))
