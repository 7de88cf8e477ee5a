"""Planted items are unknown to training, in the catalogue, and evaluated separately."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.training.conftest import TINY, Shop, read_shop
from training.commands.evaluate_command import main as evaluate
from training.evaluation.cold_start import (
    PLANTED,
    SHOWN,
    choose,
    cold_metrics,
    evaluate_cold,
    launch,
    plant,
    plant_again,
    planted_items,
    withhold,
)
from training.evaluation.metrics import Rankings
from training.evaluation.rankers import Popularity, next_basket
from training.run.run import run
from twotower.data.schema import load_schema
from twotower.errors import DataError

HALF_LIVES = (14.0,)


@pytest.fixture
def fresh(tiny_shop: Path) -> Shop:
    """A shop of one's own: planting uses it up."""
    return read_shop(tiny_shop)


def test_one_item_of_every_stratum_of_like_popularity_is_chosen() -> None:
    counts = np.array([0, 0, *range(1, 101)])
    rows = choose(counts, 0.05, seed=0)
    assert [(int(counts[row]) - 1) // 20 for row in sorted(rows, key=lambda row: counts[row])] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(rows, choose(counts, 0.05, seed=0))
    assert rows.tolist() != choose(counts, 0.05, seed=1).tolist()


def test_nothing_of_a_planted_item_is_left_before_the_test_part(fresh: Shop, shop: Shop) -> None:
    planted = plant(fresh.data, 0.1, HALF_LIVES, seed=0)
    data, log, before = planted.data, planted.data.log, shop.data.log
    hidden = np.isin(before.item_rows_E, planted.rows) & (before.times_ms_E < shop.data.test_from_ms)
    assert hidden.sum() > 100
    assert len(log.item_rows_E) == len(before.item_rows_E) - hidden.sum()
    assert not data.train_count_N[planted.rows].any()
    untouched = np.setdiff1d(np.arange(len(shop.items)), planted.rows)
    np.testing.assert_array_equal(data.train_count_N[untouched], shop.data.train_count_N[untouched])
    assert np.isin(planted.rows, log.item_rows_E[log.times_ms_E >= data.test_from_ms]).any(), "their later events are the answers"


def test_what_is_kept_keeps_its_user_its_order_and_its_context(fresh: Shop, shop: Shop) -> None:
    planted = plant(fresh.data, 0.1, HALF_LIVES, seed=0)
    log, before = planted.data.log, shop.data.log
    hidden = np.isin(before.item_rows_E, planted.rows) & (before.times_ms_E < shop.data.test_from_ms)
    for user, name in enumerate(log.user_ids):
        old = slice(*before.span(before.user_ids.index(name)))
        new = slice(*log.span(user))
        keep = ~hidden[old]
        np.testing.assert_array_equal(log.item_rows_E[new], before.item_rows_E[old][keep])
        np.testing.assert_array_equal(log.times_ms_E[new], before.times_ms_E[old][keep])
        np.testing.assert_array_equal(log.types_E[new], before.types_E[old][keep])
        np.testing.assert_array_equal(log.context.slots_NS[new], before.context.slots_NS[old][keep])
        np.testing.assert_array_equal(log.context.dense_NF[new], before.context.dense_NF[old][keep])


def test_a_user_of_hidden_items_alone_disappears(fresh: Shop) -> None:
    log = fresh.data.log
    past = np.unique(log.item_rows_E[slice(*log.span(3))])
    planted = withhold(replace(fresh.data, test_from_ms=fresh.data.end_ms), past.astype(np.int64), HALF_LIVES)
    left = planted.data.log
    assert len(left.user_ids) == len(left.offsets_U1) - 1
    assert "user-3" in log.user_ids
    assert log.user_ids[3] not in left.user_ids
    assert (np.diff(left.offsets_U1) > 0).all()


def test_popularity_forgets_them_too(fresh: Shop) -> None:
    planted = plant(fresh.data, 0.1, HALF_LIVES, seed=0)
    on_the_first_day = planted.data.snapshots.day(planted.data.test_from_ms)[0]
    assert on_the_first_day[planted.rows].max() == on_the_first_day.min()


def test_from_their_launch_on_they_are_expected_to_sell_like_the_items_most_like_them(fresh: Shop) -> None:
    planted = plant(fresh.data, 0.1, HALF_LIVES, seed=0)
    data, rows = planted.data, planted.rows
    before_TN = data.snapshots.table_PTN[0].copy()
    launch_step = int(data.snapshots.index(np.array(data.test_from_ms)))
    bestsellers = np.argsort(-before_TN[launch_step])[:5]
    vectors_ND = np.random.default_rng(0).normal(size=(len(fresh.items), 8)).astype(np.float32)
    vectors_ND[bestsellers] = vectors_ND[rows[0]] = 9 * np.eye(8)[0]
    launch(planted, vectors_ND, HALF_LIVES[0])
    after_TN = data.snapshots.table_PTN[0]
    np.testing.assert_array_equal(after_TN[:launch_step], before_TN[:launch_step])
    np.testing.assert_array_equal(np.delete(after_TN, rows, 1), np.delete(before_TN, rows, 1))
    assert (after_TN[launch_step:, rows] > before_TN[launch_step:, rows]).all()
    share = np.exp(before_TN[launch_step, rows[0]]) + np.sqrt(np.exp(before_TN[launch_step, bestsellers])).mean() ** 2
    assert np.exp(after_TN[launch_step, rows[0]]) == pytest.approx(share, rel=1e-4)


def test_evaluation_hides_the_same_items(fresh: Shop, tiny_shop: Path) -> None:
    planted = plant(fresh.data, 0.1, HALF_LIVES, seed=0)
    again = plant_again(read_shop(tiny_shop).data, planted.item_ids, HALF_LIVES)
    np.testing.assert_array_equal(planted.rows, again.rows)
    np.testing.assert_array_equal(planted.data.log.item_rows_E, again.data.log.item_rows_E)


def test_another_catalogue_is_refused(fresh: Shop) -> None:
    with pytest.raises(DataError, match="1 of the bundle's 2 planted items are not in the catalogue"):
        plant_again(fresh.data, [fresh.data.item_ids[0].as_py(), "of another shop"], HALF_LIVES)


def test_a_bundle_that_saw_every_item_is_refused() -> None:
    with pytest.raises(DataError, match="--plant-cold"):
        planted_items(Path("bundle"), {"next_basket": {}})


def rankings() -> Rankings:
    """Two queries of two users. Answers: a warm one and a planted one new to its user; a planted one bought before."""
    nothing = np.full(3, np.nan)
    return Rankings(
        user_Q=np.array([0, 1]),
        answer_query_A=np.array([0, 0, 1]),
        rank_A=np.array([3.0, 40.0, 8.0]),
        unseen_rank_A=np.array([2.0, 9.0, 5.0]),
        local_rank_A=nothing,
        nll_A=nothing,
        local_nll_A=nothing,
        entropy_Q=np.full(2, np.nan),
        past_A=np.array([False, False, True]),
        train_count_A=np.array([7, 0, 0]),
        top10_QK=np.array([[1, 2], [9, 4]]),
    )


def test_the_cold_are_counted_apart() -> None:
    """Worked by hand: the planted answer of query 0 is at 40, and at 9 among the unseen; that of query 1 at 8."""
    metrics = cold_metrics(rankings(), np.array([False, True, True]), np.array([9]))
    assert metrics["recall@10"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["warm_recall@10"] == 1
    assert metrics["cold_recall@10"] == pytest.approx((0 + 1) / 2)
    assert metrics["cold_recall@100"] == 1
    assert metrics["cold_unseen_recall@10"] == 1, "only the first purchase counts, ranked among what is new to its user"
    assert metrics["cold_median_rank"] == 24
    assert metrics["cold_share@10"] == 0.25
    assert metrics["cold_answers"] == 2


def test_rankers_are_judged_on_the_test_part_and_compared_in_pairs(fresh: Shop) -> None:
    planted = plant(fresh.data, 0.1, HALF_LIVES, seed=0)
    popularity = Popularity(planted.data.snapshots)
    result = evaluate_cold(planted, {"model": popularity, "again": popularity})
    queries = next_basket(planted.data.log, planted.data.test_from_ms, planted.data.end_ms)
    assert result["model"]["queries"] == len(queries)
    assert result["model"]["cold_answers"] == sum(np.isin(q.answers, planted.rows).sum() for q in queries) > 20
    assert result["model"]["minus again: cold_recall@10.low"] == result["model"]["minus again: cold_recall@10.high"] == 0
    assert result["model"]["cold_recall@10.low"] <= result["model"]["cold_recall@10"] <= result["model"]["cold_recall@10.high"]


def test_a_bundle_remembers_what_was_hidden_and_is_judged_by_it(
    tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, events, items = tmp_path / "bundle", tiny_shop / "events.parquet", tiny_shop / "items.parquet"
    config = msgspec.structs.replace(TINY, plant_cold=0.1, evaluations=0)
    trained = run(config, events, items, load_schema(tiny_shop / "schema.toml"), bundle)
    assert len(trained[PLANTED]) == pytest.approx(40, abs=2)
    assert "items planted cold" in capsys.readouterr().err
    evaluate(["--bundle", str(bundle), "--events", str(events), "--items", str(items), "--protocol", "cold-start", "--json"])
    rankers = json.loads(capsys.readouterr().out)["rankers"]
    assert set(rankers) == {"model", "content_knn", "popularity"}
    for metrics in rankers.values():
        assert set(SHOWN) <= set(metrics)
    assert "minus content_knn: cold_unseen_recall@10.low" in rankers["model"]
    evaluate(["--bundle", str(bundle), "--events", str(events), "--items", str(items), "--protocol", "cold-start"])
    assert "cold unseen" in capsys.readouterr().out
