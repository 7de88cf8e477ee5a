"""The limit for the model is the baseline of the same run."""

import pytest

from benchmarks.cold_start import rows_of

RECALLS = ("cold_unseen_recall@10", "cold_unseen_recall@100")


def metrics(recall: float) -> dict[str, float]:
    return {"recall@10": 0.2, "cold_median_rank": 900.0, **dict.fromkeys(RECALLS, recall)}


def gains(low: float, high: float) -> dict[str, float]:
    return {f"minus content_knn: {name}.{end}": value for name in RECALLS for end, value in (("low", low), ("high", high))}


@pytest.mark.parametrize(("ours", "missed"), [(0.03, []), (0.01, ["model_cold_unseen_recall10", "model_cold_unseen_recall100"])])
def test_the_model_must_find_what_likeness_of_content_finds(ours: float, missed: list[str]) -> None:
    rows = rows_of({"model": {**metrics(ours), **gains(-0.01, 0.02)}, "content_knn": metrics(0.02), "popularity": metrics(0.0)})
    assert [row.metric for row in rows if not row.meets_must] == missed
    assert {row.metric: row.value for row in rows}["model_minus_content_knn_cold_unseen_recall10_low"] == -0.01


def test_a_rank_is_better_when_lower() -> None:
    rows = rows_of({"model": {**metrics(0.1), **gains(0.0, 0.1)}, "content_knn": metrics(0.1)})
    assert {row.better for row in rows if row.metric.endswith("median_rank")} == {"lower"}
