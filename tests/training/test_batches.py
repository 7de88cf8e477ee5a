"""What a training batch may know, and what it must ask."""

import numpy as np

from tests.training.conftest import Shop
from training.batches import stream_batches


def test_no_answer_lies_in_the_held_out_months(shop: Shop) -> None:
    sampler, rng = shop.sampler(), np.random.default_rng(0)
    for _ in range(20):
        assert (sampler.sample(rng).now_ms_Q < shop.data.train_until_ms).all()


def test_a_query_stands_before_its_answers_and_knows_only_the_past(shop: Shop) -> None:
    """Own items are those of baskets before the query, and the window ends before its moment."""
    batch = shop.sampler().sample(np.random.default_rng(4))
    log = shop.data.log
    lengths = batch.histories.lengths_B.tolist()
    for q in range(len(batch.window_Q)):
        window, position = int(batch.window_Q[q]), int(batch.position_Q[q])
        assert -1 <= position < lengths[window]
        own = set(batch.own.rows_M[batch.own.request_M == q].tolist())
        read = set(batch.histories.item_rows_BL[window, : position + 1].tolist())
        assert read <= own
        answers = set(batch.answer_rows_A[batch.answer_query_A == q].tolist())
        at_that_time = np.flatnonzero(log.times_ms_E == batch.now_ms_Q[q])
        assert answers <= set(log.item_rows_E[at_that_time].tolist())


def test_baskets_are_shuffled_afresh_and_never_split(shop: Shop) -> None:
    sampler = shop.sampler()
    first, second = (sampler.sample(np.random.default_rng(s)) for s in (9, 9))
    assert first.histories.item_rows_BL.tolist() == second.histories.item_rows_BL.tolist(), "a seed repeats"
    rng, orders = np.random.default_rng(9), set()
    for _ in range(60):
        batch = sampler.sample(rng)
        same_time = batch.histories.time_BL6[:, 1:, 1] == 1
        rows = batch.histories.item_rows_BL
        ascending = (rows[:, 1:] > rows[:, :-1])[same_time]
        orders.add(bool(ascending.float().mean() > 0.6) or bool(ascending.float().mean() < 0.4))
    assert orders == {False}, "inside a basket the next row is larger about half of the time"


def test_weights_sum_to_one_and_large_baskets_do_not_drown_small_ones(shop: Shop) -> None:
    batch = shop.sampler().sample(np.random.default_rng(2))
    np.testing.assert_allclose(batch.answer_weights_A.sum(), 1.0, rtol=1e-5)
    sizes = np.bincount(batch.answer_query_A.numpy())
    per_query = np.bincount(batch.answer_query_A.numpy(), batch.answer_weights_A.numpy())
    np.testing.assert_allclose(per_query / per_query[0], (sizes / sizes[0]) ** 0.5, rtol=1e-4)


def test_a_stream_repeats_with_its_seed(shop: Shop) -> None:
    first, second = (stream_batches(shop.sampler(), seed=5) for _ in range(2))
    for _ in range(3):
        assert next(first).now_ms_Q.tolist() == next(second).now_ms_Q.tolist()


def test_new_users_are_asked_about_too(shop: Shop) -> None:
    sampler, rng = shop.sampler(), np.random.default_rng(0)
    assert any((sampler.sample(rng).position_Q == -1).any() for _ in range(20))
