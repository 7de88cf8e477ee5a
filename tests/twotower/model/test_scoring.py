"""One score, whichever way it is computed."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import torch

from twotower.artefacts.bundle import load_bundle
from twotower.data.features import DAY_MS, encode_rows
from twotower.data.item_statistics import item_statistics
from twotower.data.window import History
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.scoring import Queries, Request, answer

NOW_MS = 20_000 * DAY_MS


def request(model: ModelConfig, rows: list[int], wanted: str | None = None, now_ms: int = NOW_MS) -> Request:
    item_rows = np.array(rows, np.int64)
    times = now_ms - DAY_MS * np.arange(len(rows), 0, -1)
    types = pa.array(["purchase"] * len(rows), pa.string())
    context = encode_rows({"event_type": types}, model.context_spec, model.context_table_rows)
    return Request(History(item_rows, times, context), item_statistics(item_rows, times), now_ms, wanted)


def test_repeat_scores_are_added_to_past_items_among_the_rows_given() -> None:
    """User 0 had items 2 and 5, user 1 had item 5; the scores are of rows 1, 5 and 6."""
    past_request_M, past_rows_M = torch.tensor([0, 0, 1]), torch.tensor([2, 5, 5])
    queries = Queries(torch.zeros(2, 1), past_request_M, past_rows_M, repeat_M=torch.tensor([10.0, 20.0, 40.0]))
    scores_QR = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    added = queries.add_repeat_scores(scores_QR, torch.tensor([1, 5, 6]))
    assert added.tolist() == [[1.0, 22.0, 3.0], [4.0, 45.0, 6.0]]


def test_past_items_score_their_dot_product_plus_repeat(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    model = towers.config.model
    vectors_NV = torch.randn(50, model.width + 1)
    queries = answer(towers.contextualizer, model, vectors_NV, [request(model, [3, 7, 3])])
    dense_N = queries.dense_scores(vectors_NV)[0]
    plain_N = (queries.vectors_QV @ vectors_NV.T)[0]
    assert queries.past_rows_M.tolist() == [3, 7]
    torch.testing.assert_close(dense_N[[3, 7]], queries.past_scores(vectors_NV))
    torch.testing.assert_close(dense_N[[3, 7]] - plain_N[[3, 7]], queries.repeat_M)
    others = [i for i in range(50) if i not in (3, 7)]
    torch.testing.assert_close(dense_N[others], plain_N[others])


def test_a_batch_answers_each_request_as_if_alone(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    model = towers.config.model
    vectors_NV = torch.randn(50, model.width + 1)
    requests = [request(model, rows) for rows in ([], [1], list(range(40)), [5, 5, 6])]
    together = answer(towers.contextualizer, model, vectors_NV, requests).dense_scores(vectors_NV)
    for row, alone in enumerate(requests):
        single = answer(towers.contextualizer, model, vectors_NV, [alone]).dense_scores(vectors_NV)[0]
        torch.testing.assert_close(together[row], single, rtol=1e-4, atol=1e-4)


def test_what_is_asked_for_changes_the_answer(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    model = towers.config.model
    vectors_NV = torch.randn(50, model.width + 1)
    requests = [request(model, [1, 2]), request(model, [1, 2], "view")]
    anything, views = answer(towers.contextualizer, model, vectors_NV, requests).vectors_QV
    assert not torch.equal(anything, views)


def test_a_new_user_is_answered(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    model = towers.config.model
    new = request(model, [])
    assert len(new.statistics) == 0
    scores = answer(towers.contextualizer, model, torch.randn(9, model.width + 1), [new])
    assert torch.isfinite(scores.vectors_QV).all()
    assert len(scores.past_rows_M) == 0


@pytest.mark.parametrize("clock", [True, False])
def test_dates_matter_only_to_a_model_with_a_clock(tiny_bundle: Path, clock: bool) -> None:
    """Half a day and 100 days later hour, weekday and season are others, and no gap is."""
    model = msgspec.structs.replace(load_bundle(tiny_bundle).towers.config.model, clock=clock)
    contextualizer = Contextualizer(model).eval()
    times = (NOW_MS, NOW_MS + 100 * DAY_MS + DAY_MS // 2)
    requests = [request(model, [1, 2, 1], now_ms=now_ms) for now_ms in times]
    now, later = answer(contextualizer, model, torch.randn(50, model.width + 1), requests).vectors_QV
    assert torch.allclose(now, later, atol=1e-5) == (not clock)
