"""One answer a query: recall@10 is 1 where its rank is 10 or better."""

import numpy as np
import pytest

from benchmarks.report import Row
from benchmarks.training_rivals.rows import beauty_rows, journey_rows
from training.evaluation.metrics import Rankings

USERS = 40


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.metrics.ranking.BOOTSTRAP_DRAWS", 200)


def ranked(hits: int, set_loss: float = np.nan) -> Rankings:
    """The first `hits` of 40 users get their answer first, the others theirs at place 50; every answer is new to its user."""
    rank_A = np.where(np.arange(USERS) < hits, 1.0, 50.0)
    nothing = np.full(USERS, np.nan)
    return Rankings(
        user_Q=np.arange(USERS),
        answer_query_A=np.arange(USERS),
        rank_A=rank_A,
        unseen_rank_A=rank_A,
        local_rank_A=rank_A,
        nll_A=np.full(USERS, set_loss),
        local_nll_A=nothing,
        entropy_Q=nothing,
        past_A=np.zeros(USERS, bool),
        train_count_A=np.ones(USERS, np.int64),
        top10_QK=np.zeros((USERS, 10), np.int64),
    )


def journey(ours: int, tifu_knn: int) -> dict[str, Row]:
    rankings = {
        "ours": ranked(ours, 8.6),
        "popularity": ranked(10, 9.5),
        "personal_frequency": ranked(12),
        "mixture": ranked(13, 8.9),
        "tifu_knn": ranked(tifu_knn),
        "sasrec": ranked(39),
    }
    return {row.metric: row for row in journey_rows(rankings, num_items=100, train_min=31.0)}


def test_ours_is_held_against_what_was_asked() -> None:
    rows = journey(ours=30, tifu_knn=15)

    assert (rows["cj_ndcg10"].value, rows["cj_ndcg10"].must, rows["cj_ndcg10"].goal) == (0.75, 0.233, 0.255)
    assert (rows["cj_recall10"].value, rows["cj_recall10"].must, rows["cj_recall10"].goal) == (0.75, 0.220, 0.240)
    assert rows["cj_set_loss"].value == pytest.approx(8.6)
    assert rows["cj_set_loss"].meets_must
    assert rows["cj_explore_vs_popularity"].value == pytest.approx(3.0)
    assert rows["cj_train_min"].meets_must
    assert not rows["cj_train_min"].meets_goal


def test_the_margin_is_the_low_end_of_the_interval_over_the_best_counter() -> None:
    rows = journey(ours=30, tifu_knn=15)

    assert rows["cj_ndcg10_margin"].value == rows["cj_ours_minus_tifu_knn_ndcg10_low"].value > 0
    assert rows["cj_ndcg10_margin"].meets_must
    assert rows["cj_recall10_margin"].meets_must


def test_a_tie_with_the_best_counter_is_no_margin() -> None:
    rows = journey(ours=30, tifu_knn=30)

    assert rows["cj_ndcg10_margin"].value == 0.0
    assert not rows["cj_ndcg10_margin"].meets_must


def test_a_peer_is_shown_with_its_paired_interval_and_bounds_nothing() -> None:
    rows = journey(ours=30, tifu_knn=15)

    assert rows["cj_sasrec_ndcg10"].value == pytest.approx(39 / 40)
    assert rows["cj_ours_minus_sasrec_ndcg10_high"].value < 0
    assert all(row.must is None for name, row in rows.items() if "sasrec" in name)
    assert "cj_sasrec_set_loss" not in rows
    assert rows["cj_mixture_set_loss"].value == pytest.approx(8.9)


def test_exploring_is_left_out_where_popularity_finds_nothing() -> None:
    names = ("ours", "popularity", "personal_frequency", "mixture", "tifu_knn")
    rankings = {name: ranked(0 if name == "popularity" else 9, 9.0) for name in names}

    assert "cj_explore_vs_popularity" not in {row.metric for row in journey_rows(rankings, num_items=100, train_min=1.0)}


def test_seeds_are_shown_one_by_one_with_their_mean_and_standard_deviation() -> None:
    rows = {r.metric: r for r in beauty_rows([ranked(2), ranked(4), ranked(6)], {"popularity": ranked(1)}, 100, 20.0)}

    assert [rows[f"beauty_recall10_seed{s}"].value for s in range(3)] == [0.05, 0.1, 0.15]
    assert rows["beauty_recall10"].value == pytest.approx(0.1)
    assert rows["beauty_recall10"].meets_must
    assert rows["beauty_recall10_std"].value == pytest.approx(0.05)
    assert rows["beauty_ndcg10"].meets_goal
    assert rows["beauty_popularity_recall10"].value == 1 / 40
    assert rows["beauty_ours_minus_popularity_recall10_low"].value <= 1 / 40


def test_one_seed_has_no_standard_deviation() -> None:
    assert "beauty_recall10_std" not in {row.metric for row in beauty_rows([ranked(2)], {}, 100, 20.0)}
