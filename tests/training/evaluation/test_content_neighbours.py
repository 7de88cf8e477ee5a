"""The baseline ranks by content similarity and by nothing else."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.training.conftest import Shop
from training.data.event_log import EventLog
from training.evaluation.content_neighbours import RECENT_EVENTS, content_neighbours
from training.evaluation.rankers import Query, next_basket, statistics_before
from twotower.data.features import FeatureSpec, FieldSpec

SPEC = FeatureSpec(
    fields=(
        FieldSpec(name="item_id", kind="id"),
        FieldSpec(name="title", kind="text"),
        FieldSpec(name="brand", kind="categorical"),
        FieldSpec(name="image", kind="vector", dim=2),
    )
)


def table(num_items: int) -> pa.Table:
    """Items in four kinds, alike within a kind; ids that say nothing."""
    words = ["red apple", "green pear", "blue soap", "black tea"]
    images = [[1.0, 0.0], [0.8, 0.6], [-1.0, 0.1], [0.0, -1.0]]
    kinds = [i % 4 for i in range(num_items)]
    return pa.table(
        {
            "item_id": [f"item-{i}" for i in range(num_items)],
            "title": [words[k] for k in kinds],
            "brand": [f"brand {k // 2}" for k in kinds],
            "image": pa.array([images[k] for k in kinds], pa.list_(pa.float64())),
        }
    )


def scores_of(log: EventLog, query: Query, num_items: int) -> torch.Tensor:
    out_1N = torch.empty(1, num_items)
    content_neighbours(log, [table(num_items)], SPEC).score([query], [statistics_before(log, query)], out_1N)
    return out_1N[0]


@pytest.fixture
def query(shop: Shop) -> Query:
    """A user with a history long enough to have a part that is not recent."""
    queries = next_basket(shop.data.log, shop.data.test_from_ms, shop.data.end_ms)
    return next(q for q in queries if q.num_known > RECENT_EVENTS + 10)


def test_items_of_equal_content_tie_whoever_sold_better(shop: Shop, query: Query) -> None:
    scores_N = scores_of(shop.data.log, query, len(shop.items)).view(-1, 4)
    torch.testing.assert_close(scores_N, scores_N[:1].expand_as(scores_N))


def test_what_the_user_had_lately_comes_first_and_what_was_before_it_does_not_count(shop: Shop, query: Query) -> None:
    log = shop.data.log
    now = log.span(query.user)[0] + query.num_known
    rows_E = log.item_rows_E.copy()
    rows_E[:now] = 1
    rows_E[now - RECENT_EVENTS : now] = 2
    scores_N = scores_of(replace(log, item_rows_E=rows_E), query, len(shop.items))
    assert int(scores_N.argmax()) % 4 == 2
    assert scores_N[2] == pytest.approx(2.0, abs=1e-5), "cosine one of tokens and of vectors"


def test_a_user_without_history_sees_a_tie(shop: Shop) -> None:
    nobody = Query(user=0, num_known=0, now_ms=shop.data.test_from_ms, answers=np.array([1]))
    assert not scores_of(shop.data.log, nobody, len(shop.items)).any()
