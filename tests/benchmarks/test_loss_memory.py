"""The benchmark of the loss measures right, on a small problem."""

import pytest

from benchmarks import loss_memory
from benchmarks.loss_memory import Measured, Size, measure, rows_of

MEASURED = Measured(
    peak_bytes=200_000_000,
    num_drawn=1_000_000,
    seconds=10.0,
    threads=2,
    part_s=[10.0, 9.0, 30.0],
    products_s=[4.0, 6.0, 20.0],
    loss_error=1e-7,
    gradient_error=2e-5,
)


def test_rows_hold_the_peak_beside_its_prediction() -> None:
    rows = {row.metric: row for row in rows_of(Size(), MEASURED)}
    peak = rows["loss_peak_mb"]
    assert (peak.value, peak.must, peak.goal) == (200, 512, 256)
    assert rows["loss_predicted_mb"].value == pytest.approx(Size().predicted_bytes / 1e6)
    assert rows["loss_logits_mb"].value == pytest.approx(4096 * 1_000_000 * 4 / 1e6)
    assert rows["loss_gflops"].value == pytest.approx(4 * 4096 * 1_000_000 * 128 / 10 / 1e9), "of what was drawn"
    assert rows["loss_gemm_gflops"].value == pytest.approx(4 * 4096 * 1_000_000 * 128 / 4 / 6 / 1e9), "a part is a quarter"
    assert rows["pool_gemm_ratio"].value == 1.5, "the median of 2.5, 1.5 and 1.5"


def test_what_is_predicted_does_not_grow_with_queries_times_candidates() -> None:
    one, both = Size(num_queries=1000, num_candidates=100_000), Size(num_queries=2000, num_candidates=200_000)
    scores = 1000 * 100_000 * 4
    assert both.predicted_bytes - one.predicted_bytes < scores / 4


def test_the_loss_agrees_with_its_definition_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_memory, "CHECKED_AT_ONCE", 100)
    small = Size(num_queries=20, num_candidates=400, num_items=600, width=8, num_past=3, num_answers=2)
    measured = measure(small)
    assert 300 < measured.num_drawn < 500
    assert len(measured.part_s) == len(measured.products_s) == loss_memory.TURNS
    assert measured.loss_error < 1e-6
    assert measured.gradient_error < 1e-5
