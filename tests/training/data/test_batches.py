"""The queries of a batch know earlier events only, and every basket boundary becomes a query."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.training.conftest import Shop, searching
from training.data import batches
from training.data.batches import BatchSampler, stream_batches
from twotower.model.searches import encode_queries


def test_no_answer_lies_in_the_held_out_months(shop: Shop) -> None:
    sampler, rng = shop.sampler(), np.random.default_rng(0)
    for _ in range(20):
        assert (sampler.sample(rng).now_ms_Q < shop.data.train_until_ms).all()


def test_a_query_stands_before_its_answers_and_knows_only_the_past(shop: Shop) -> None:
    """Past items are those of baskets before the query, and the window ends before its moment."""
    batch = shop.sampler().sample(np.random.default_rng(4))
    log = shop.data.log
    lengths = batch.histories.lengths_B.tolist()
    for q in range(len(batch.window_Q)):
        window, position = int(batch.window_Q[q]), int(batch.position_Q[q])
        assert -1 <= position < lengths[window]
        past = set(batch.past.rows_M[batch.past.request_M == q].tolist())
        read = set(batch.histories.item_rows_BL[window, : position + 1].tolist())
        assert read <= past
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


def test_a_robot_is_drawn_as_often_as_a_very_busy_person(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = msgspec.structs.replace(shop.model, window=16, page=4)
    before = BatchSampler(shop.data.log, shop.data.train_until_ms, model, shop.config).share_U
    assert (before > before.min() * 1.5).any(), "some have more than one window"
    monkeypatch.setattr(batches, "MAX_WINDOWS", 1)
    after = BatchSampler(shop.data.log, shop.data.train_until_ms, model, shop.config).share_U
    np.testing.assert_allclose(after[after > 0], 1 / np.count_nonzero(after))


def test_a_long_history_has_fewer_queries_in_a_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn at random from all boundaries of the window, at least one of each window."""
    whole = shop.sampler().sample(np.random.default_rng(4))
    known = len(whole.past.rows_M)
    monkeypatch.setattr(batches, "MAX_KNOWN_EVENTS", 50)
    cut = shop.sampler().sample(np.random.default_rng(4))
    assert len(cut.window_Q) < len(whole.window_Q)
    assert len(cut.past.rows_M) < known
    monkeypatch.setattr(batches, "MAX_KNOWN_EVENTS", 0)
    assert 1 <= len(shop.sampler().sample(np.random.default_rng(4)).window_Q) <= shop.config.batch_windows


def test_every_boundary_is_asked_about_equally_often(shop: Shop) -> None:
    """Long users and short ones, old boundaries and the newest."""
    config = msgspec.structs.replace(shop.config, max_queries=10_000, batch_windows=16)
    sampler, rng = BatchSampler(shop.data.log, shop.data.train_until_ms, shop.model, config), np.random.default_rng(1)
    log, draws = shop.data.log, 400
    counts_E = np.zeros(len(log.item_rows_E))
    for _ in range(draws):
        batch = sampler.sample(rng)
        users_Q = batch.users_B[batch.window_Q.numpy()]
        for user, now_ms in zip(users_Q.tolist(), batch.now_ms_Q.tolist(), strict=True):
            start, stop = log.span(user)
            counts_E[start + np.searchsorted(log.times_ms_E[start:stop], now_ms)] += 1
    num_boundaries = [len(sampler.bounds(u)) - 1 for u in range(log.num_users)]
    per_user = np.array([counts_E[slice(*log.span(u))].sum() for u in range(log.num_users)]) / np.maximum(num_boundaries, 1)
    long, short = np.argsort(num_boundaries)[-10:], np.argsort(num_boundaries)[:10]
    assert per_user[long].mean() / per_user[short].mean() == pytest.approx(1, abs=0.15)
    newest = np.array([counts_E[sampler.bounds(u)[-2]] for u in long])
    assert newest.mean() / per_user[long].mean() == pytest.approx(1, abs=0.2)


def test_a_last_basket_larger_than_the_window_is_drawn_too(shop: Shop) -> None:
    """It counts as one basket of a window, so its user is neither left out nor drawn without end."""
    model = msgspec.structs.replace(shop.model, window=2, page=1)
    sampler = BatchSampler(shop.data.log, shop.data.train_until_ms, model, shop.config)
    assert any(np.diff(sampler.bounds(u))[-1:].max(initial=0) > model.window for u in range(shop.data.log.num_users))
    assert np.isfinite(sampler.share_U).all()
    assert len(sampler.sample(np.random.default_rng(0)).window_Q)


def test_after_a_made_up_search_the_item_that_it_names_is_the_only_answer(
    shop: Shop, tiny_shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, rng = searching(shop, tiny_shop), np.random.default_rng(3)
    assert sampler.words is not None
    made_up, query = list[tuple[int, str]](), sampler.words.query

    def noted(rng: np.random.Generator, row: int) -> str | None:
        if (text := query(rng, row)) is not None:
            made_up.append((row, text))
        return text

    monkeypatch.setattr(sampler.words, "query", noted)
    for _ in range(5):
        made_up.clear()
        batch = sampler.sample(rng)
        rows_Q = batch.histories.item_rows_BL[batch.window_Q, batch.position_Q.clamp(min=0)]
        searched = np.flatnonzero((rows_Q < 0) & (batch.position_Q >= 0))
        answers = [batch.answer_rows_A[batch.answer_query_A == q].tolist() for q in searched]
        assert answers == [[row] for row, _ in made_up]
        assert len(made_up) > 5
        expected = encode_queries([text for _, text in made_up], sampler.model)
        assert np.array_equal(batch.searches.words.slots_NS[-1 - rows_Q[searched].numpy()], expected.words.slots_NS)
        assert (batch.request_Q7[searched, 0] < 0.01).all(), "it was searched for just now"


def test_made_up_searches_stand_between_the_events_that_are_there_without_them(shop: Shop, tiny_shop: Path) -> None:
    """The same seed draws the same windows, whose events keep their order; queries still know what they knew."""
    with_them, without = (searching(shop, tiny_shop, share).sample(np.random.default_rng(8)) for share in (0.4, 0.0))
    assert len(without.searches) == 0
    rows_BL, plain_BL = with_them.histories.item_rows_BL, without.histories.item_rows_BL
    assert sorted((-1 - rows_BL[rows_BL < 0]).tolist()) == list(range(len(with_them.searches)))
    for window, (rows_L, plain_L) in enumerate(zip(rows_BL, plain_BL, strict=True)):
        kept_L = rows_L[: with_them.histories.lengths_B[window]]
        assert kept_L[kept_L >= 0].tolist() == plain_L[: without.histories.lengths_B[window]].tolist()
        for q in np.flatnonzero(with_them.window_Q == window).tolist():
            known = kept_L[: int(with_them.position_Q[q]) + 1]
            assert int((known >= 0).sum()) == int(without.position_Q[q]) + 1
    assert with_them.now_ms_Q.tolist() == without.now_ms_Q.tolist()
    assert with_them.past.rows_M.tolist() == without.past.rows_M.tolist()


def test_made_up_searches_repeat_with_the_seed_and_fit_the_window(shop: Shop, tiny_shop: Path) -> None:
    sampler = searching(shop, tiny_shop, 0.5)
    first, second = (sampler.sample(np.random.default_rng(6)) for _ in range(2))
    assert np.array_equal(first.searches.words.slots_NS, second.searches.words.slots_NS)
    assert first.histories.item_rows_BL.tolist() == second.histories.item_rows_BL.tolist()
    small = msgspec.structs.replace(sampler.model, window=16, page=4)
    narrow = BatchSampler(sampler.log, shop.data.train_until_ms, small, sampler.config, sampler.words)
    lengths = [int(narrow.sample(np.random.default_rng(seed)).histories.lengths_B.max()) for seed in range(20)]
    assert max(lengths) == 16


def test_no_search_is_made_up_without_words_a_text_or_a_share(shop: Shop, tiny_shop: Path) -> None:
    sampler = searching(shop, tiny_shop)
    assert sampler.makes_up
    until_ms, model, config = shop.data.train_until_ms, sampler.model, sampler.config
    silent = msgspec.structs.replace(config, search_share=0.0)
    assert not BatchSampler(sampler.log, until_ms, model, config).makes_up
    assert not BatchSampler(sampler.log, until_ms, model, silent, sampler.words).makes_up
    assert not BatchSampler(sampler.log, until_ms, shop.model, config, sampler.words).makes_up
