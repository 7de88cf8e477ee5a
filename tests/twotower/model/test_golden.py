"""The question of a golden query, as the model reads it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from twotower.artefacts.bundle import load_bundle
from twotower.data.features import DAY_MS, encode_rows
from twotower.model.config import ModelConfig
from twotower.model.golden import golden_request


@pytest.fixture
def model(tiny_bundle: Path) -> ModelConfig:
    return load_bundle(tiny_bundle).towers.config.model


def test_its_history_and_statistics_are_those_of_its_events(model: ModelConfig) -> None:
    """Item 3 twice within 7 days, so that the first counts half at the second; then item 9."""
    rows, times = np.array([3, 3, 9]), np.array([0, 7 * DAY_MS, 8 * DAY_MS])
    request = golden_request(model, rows, times, 9 * DAY_MS)
    assert (request.now_ms, request.wanted_event_type) == (9 * DAY_MS, None)
    assert request.history.item_rows_L.tolist() == [3, 3, 9]
    assert request.history.times_ms_L.tolist() == times.tolist()
    assert request.statistics.item_rows_M.tolist() == [3, 9]
    assert request.statistics.count_M.tolist() == [2, 1]
    assert request.statistics.first_ms_M.tolist() == [0, 8 * DAY_MS]
    assert request.statistics.last_ms_M.tolist() == [7 * DAY_MS, 8 * DAY_MS]
    assert request.statistics.decayed_M3[:, 0].tolist() == [1.5, 1.0]


def test_its_events_are_of_a_type_of_their_own(model: ModelConfig) -> None:
    """Releases hold answers to just this question: another type, and none of them would be proven again."""
    context = golden_request(model, np.array([5]), np.array([1]), 2).history.context
    golden, purchase = (
        encode_rows({"event_type": pa.array([kind])}, model.context_spec, model.context_table_rows).slots_NS
        for kind in ("golden", "purchase")
    )
    np.testing.assert_array_equal(context.slots_NS, golden)
    assert not np.array_equal(context.slots_NS, purchase)
