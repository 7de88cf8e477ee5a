"""One answer a query: recall@10 is 1 where its rank is 10 or better."""

import numpy as np
import pytest

from benchmarks.report import Row
from benchmarks.training_rivals.rows import Runs, beauty_rows, journey_rows, paired_interval, seeds_interval
from training.evaluation.metrics import Rankings

USERS = 40
COUNTED = {"popularity": 10, "personal_frequency": 12, "mixture": 13, "ease": 14, "ease_recent": 20}


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


def runs(*hits: int) -> Runs:
    return Runs([ranked(h) for h in hits])


def journey(ours: int = 30, tifu_knn: int = 15, popularity: int = 10) -> dict[str, Row]:
    counters = {name: runs(hits) for name, hits in {**COUNTED, "popularity": popularity, "tifu_knn": tifu_knn}.items()}
    model = Runs([ranked(ours, 8.3)], train_min=31.0, parameters=900_000, embedder_share=0.02)
    peers = {"sasrec": Runs([ranked(39)], train_min=12.0, parameters=5)}
    return {row.metric: row for row in journey_rows({"ours": model}, counters, peers)}


def beauty(*hits: int) -> dict[str, Row]:
    ours = Runs([ranked(h) for h in hits], train_min=20.0, parameters=6_000_000, embedder_share=0.975)
    two_percent = Runs([ranked(1) for _ in hits], train_min=15.0, parameters=150_000, embedder_share=0.02)
    peers = {"bsarec": Runs([ranked(5), ranked(7)], train_min=19.0, parameters=900_000)}
    return {row.metric: row for row in beauty_rows({"ours": ours, "two_percent": two_percent}, {"popularity": runs(1)}, peers)}


@pytest.mark.parametrize(
    ("name", "value", "must", "goal"),
    [
        ("cj_ndcg10", 0.75, 0.245, 0.255),
        ("cj_recall10", 0.75, 0.232, 0.240),
        ("cj_set_loss", 8.3, 8.36, 8.30),
        ("cj_explore_vs_popularity", 3.0, 1.5, 2.0),
        ("cj_explore_vs_ease", 1.5, None, 1.0),
        ("cj_train_min", 31.0, 60.0, 30.0),
    ],
)
def test_ours_is_held_against_what_was_asked(name: str, value: float, must: float | None, goal: float) -> None:
    row = journey()[name]

    assert row.value == pytest.approx(value)
    assert (row.must, row.goal) == (must, goal)


def test_the_margin_is_the_low_end_of_the_interval_over_the_best_counter() -> None:
    rows = journey(ours=30, tifu_knn=25)

    assert rows["cj_ndcg10_margin"].value == rows["cj_ours_minus_tifu_knn_ndcg10_low"].value > 0
    assert rows["cj_ndcg10_margin"].meets_must
    assert rows["cj_recall10_margin"].meets_must


def test_a_tie_with_the_best_counter_is_no_margin() -> None:
    rows = journey(ours=30, tifu_knn=30)

    assert rows["cj_ndcg10_margin"].value == 0.0
    assert not rows["cj_ndcg10_margin"].meets_must


def test_a_peer_is_shown_with_its_paired_interval_and_bounds_nothing() -> None:
    rows = journey()

    assert rows["cj_sasrec_ndcg10"].value == pytest.approx(39 / 40)
    assert rows["cj_ours_minus_sasrec_ndcg10_high"].value < 0
    assert all(row.must is None for name, row in rows.items() if "sasrec" in name)
    assert "cj_sasrec_set_loss" not in rows


def test_exploring_is_left_out_where_popularity_finds_nothing() -> None:
    rows = journey(popularity=0)
    assert "cj_explore_vs_popularity" not in rows
    assert "cj_explore_vs_ease" in rows


def test_seeds_are_shown_one_by_one_with_mean_spread_and_interval() -> None:
    rows = beauty(2, 4, 6)

    assert [rows[f"beauty_recall10_seed{s}"].value for s in range(3)] == [0.05, 0.1, 0.15]
    assert rows["beauty_recall10"].value == pytest.approx(0.1)
    assert rows["beauty_recall10"].meets_must
    assert rows["beauty_recall10_std"].value == pytest.approx(0.05)
    assert rows["beauty_ndcg10"].meets_goal
    assert rows["beauty_recall10_seeds_low"].value == pytest.approx(0.1 - 4.303 * 0.05 / 3**0.5)
    assert rows["beauty_bsarec_recall10_seeds_high"].value == pytest.approx(0.15 + 12.706 * 0.025 / 1)


def test_every_model_tells_its_size_and_its_time() -> None:
    rows = beauty(2, 4, 6)

    for name, seeds, minutes, parameters in (
        ("", 3, 20, 6_000_000),
        ("_two_percent", 3, 15, 150_000),
        ("_bsarec", 2, 19, 900_000),
    ):
        assert rows[f"beauty{name}_seeds"].value == seeds
        assert rows[f"beauty{name}_train_min"].value == minutes
        assert rows[f"beauty{name}_parameters"].value == parameters
    assert (rows["beauty_embedder_share"].value, rows["beauty_two_percent_embedder_share"].value) == (0.975, 0.02)
    assert (rows["beauty_train_min"].must, rows["beauty_train_min"].goal) == (30.0, 10.0)
    assert "beauty_popularity_train_min" not in rows


def test_what_the_share_of_two_percent_costs_is_a_paired_interval() -> None:
    rows = beauty(20)
    assert rows["beauty_two_percent_recall10"].value == 1 / 40
    assert rows["beauty_ours_minus_two_percent_recall10_low"].value > 0


def test_one_seed_has_an_interval_over_users_alone() -> None:
    rows = beauty(20)
    assert rows["beauty_recall10_low"].value < 0.5 < rows["beauty_recall10_high"].value
    assert not {"beauty_recall10_std", "beauty_recall10_seeds_low", "beauty_recall10_seed0"} & set(rows)


def test_a_difference_of_several_seeds_is_that_of_their_means() -> None:
    assert paired_interval(runs(10, 20), runs(20, 10), "recall@10") == (0.0, 0.0)
    assert paired_interval(runs(20, 20), runs(20, 10), "recall@10")[1] > 0


def test_many_seeds_use_the_last_quantile_of_the_table() -> None:
    values = [0.0, 1.0] * 10
    half = 2.262 * np.std(values, ddof=1) / 20**0.5
    assert seeds_interval(values) == pytest.approx((0.5 - half, 0.5 + half))
