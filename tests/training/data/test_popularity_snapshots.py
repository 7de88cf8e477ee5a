"""A day's popularity knows the days before it and nothing else."""

import numpy as np

from tests.training.conftest import Shop
from training.data.popularity_snapshots import take_snapshots
from twotower.data.features import DAY_MS
from twotower.data.popularity import decayed_counts, log_popularity
from twotower.data.signals import SignalReport, Signals


def test_a_snapshot_equals_counting_the_days_before_it(shop: Shop) -> None:
    log, num_items = shop.data.log, len(shop.items)
    snapshots = take_snapshots(log, num_items, (1e12,))
    for day in (1, 30, 77):
        until = snapshots.start_ms + day * DAY_MS
        before = log.times_ms_E < until
        counts = decayed_counts(log.item_rows_E[before].astype(np.int64), log.times_ms_E[before], until, (1e12,), num_items)
        np.testing.assert_allclose(snapshots.table_PTN[:, day], log_popularity(counts), rtol=1e-4)


def test_no_moment_sees_its_own_day(shop: Shop) -> None:
    snapshots = shop.data.snapshots
    noon = snapshots.start_ms + 5 * DAY_MS + DAY_MS // 2
    assert snapshots.index(np.array([noon])).tolist() == [5]
    assert snapshots.index(np.array([snapshots.start_ms - DAY_MS])).tolist() == [0]
    rows = np.array([3, 4])
    np.testing.assert_array_equal(snapshots.of_items(np.array([noon, noon]), rows), snapshots.at(np.array([noon]))[:, 0, rows])


def test_signals_stand_behind_popularity_on_their_own_days(shop: Shop) -> None:
    """Item 3 has a mailer on the sixth day, known from its first minute."""
    log, num_items, start_ms = shop.data.log, len(shop.items), shop.data.snapshots.start_ms
    sixth = np.array([start_ms + 5 * DAY_MS])
    signals = Signals(
        num_items, np.array([3], np.int32), sixth, sixth + DAY_MS, np.array([[0.5]], np.float32), SignalReport(1, 0, (), 0)
    )
    snapshots = take_snapshots(log, num_items, shop.config.half_lives_days, signals)
    np.testing.assert_array_equal(snapshots.table_PTN[:-1], shop.data.snapshots.table_PTN)
    moments = start_ms + DAY_MS * np.array([4, 5, 6]) + np.array([DAY_MS - 1, 0, 0])
    assert snapshots.of_items(moments, np.array([3]))[-1].tolist() == [0, 0.5, 0]
    assert np.count_nonzero(snapshots.table_PTN[-1]) == 1
