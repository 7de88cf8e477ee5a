"""The questions that two releases are asked."""

from pathlib import Path

import numpy as np
import pytest

from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from embedder_cache.drift.answers import LONGEST_HISTORY, compare_answers, golden_questions, made_up, mean, scores
from twotower.artefacts.release import read_pointer
from twotower.artefacts.store import LocalStore
from twotower.data.features import DAY_MS
from twotower.model.golden import GoldenQuery

NOW_MS = 1_735_689_600_000


@pytest.fixture(scope="module")
def release(tiny_store: Path) -> OpenedRelease:
    return open_release(LocalStore(tiny_store), read_pointer(tiny_store).release).verified()


def same(release: OpenedRelease) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(release.item_ids))


def test_a_golden_query_is_asked_without_the_items_that_are_gone(release: OpenedRelease) -> None:
    ids = release.item_ids.take([3, 5, 3]).to_pylist()
    query = GoldenQuery(item_ids=ids, times_ms=[1, 2, 3], now_ms=NOW_MS, top_item_ids=[], top_scores=[])
    rows = same(release)
    rows[5] = -1
    (question,) = golden_questions([query], release, rows)
    assert question.older_rows_L.tolist() == [3, 3]
    assert question.times_ms_L.tolist() == [1, 3]


def test_made_up_histories_are_seeded_sorted_and_of_items_that_stay_and_sell(release: OpenedRelease) -> None:
    rows = same(release)
    rows[::2] = -1
    questions = made_up(release, rows, NOW_MS, 10)
    again = made_up(release, rows, NOW_MS, 10)
    for question, repeated in zip(questions, again, strict=True):
        assert question.older_rows_L.tolist() == repeated.older_rows_L.tolist()
        assert 1 <= len(question.older_rows_L) < LONGEST_HISTORY
        assert (question.older_rows_L % 2 == 1).all()
        assert (release.demand_N[question.older_rows_L] > 0).all()
        assert (np.diff(question.times_ms_L) >= 0).all()
        assert (question.times_ms_L > NOW_MS - 60 * DAY_MS).all()
        assert (question.times_ms_L < NOW_MS).all()


def test_without_made_up_histories_only_golden_queries_are_asked(release: OpenedRelease) -> None:
    assert made_up(release, same(release), NOW_MS, 0) == []
    assert len(compare_answers(release, release, same(release), 0).overlaps) == 6


def test_scores_are_those_that_the_release_promised(release: OpenedRelease) -> None:
    golden = release.golden
    questions = golden_questions(golden, release, same(release))
    top = scores(release, questions, same(release)).topk(10).values
    np.testing.assert_allclose(top.numpy(), [query.top_scores for query in golden], rtol=1e-4, atol=1e-5)


def test_items_that_came_and_went_are_counted_among_the_answers(release: OpenedRelease) -> None:
    """The same release, half of whose items are said to have nothing to do with the other half's."""
    rows = same(release)
    rows[::2] = -1
    found = compare_answers(release, release, rows, 3)
    assert found.share_removed == pytest.approx(found.share_added)
    assert found.overlap == pytest.approx(1 - found.share_removed)
    assert found.spearman == pytest.approx(1)


def test_the_mean_of_nothing_is_not_known() -> None:
    assert mean([]) is None
    assert mean([1.0, 2.0]) == 1.5
