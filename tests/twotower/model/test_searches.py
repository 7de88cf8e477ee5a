"""Queries of searches as vectors."""

import msgspec
import numpy as np
import pytest
import torch

from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import ItemColumns
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import KINDS, build_embedder
from twotower.model.searches import (
    HALF_LIFE_MS,
    embed_queries,
    encode_queries,
    event_vectors,
    query_field,
    search_context,
    search_weight,
)

FIELDS = (
    FieldSpec(name="item_id", kind="id"),
    FieldSpec(name="department", kind="categorical"),
    FieldSpec(name="title", kind="text"),
    FieldSpec(name="price", kind="numeric", edges=(0.0, 1.0, 9.0)),
)
MODEL = ModelConfig(
    item_spec=FeatureSpec(fields=FIELDS),
    context_spec=FeatureSpec(fields=(FieldSpec(name="event_type", kind="categorical"),)),
    width=16,
    num_heads=2,
    query_field="title",
)


@pytest.mark.parametrize(
    ("features", "title", "expected"),
    [
        ({"brand": "categorical", "title": "text"}, "title", "title"),
        ({"about": "text", "name": "text"}, "name", "name"),
        ({"about": "text", "name": "text"}, None, "about"),
        ({"name": "categorical", "about": "text"}, "name", "about"),
        ({"name": "categorical"}, "name", None),
        ({}, None, None),
    ],
)
def test_queries_are_read_as_titles_else_as_the_first_text(
    features: dict[str, str], title: str | None, expected: str | None
) -> None:
    assert query_field(msgspec.convert({"features": features, "title": title}, ItemColumns)) == expected


def test_a_query_is_an_item_of_which_only_the_words_are_known() -> None:
    rows = encode_queries(["Whole Milk", "whole milk", "milk"], MODEL).items
    ids, department = slice(0, 3), slice(3, 5)
    assert not rows.weights_NS[:, ids].any()
    assert (rows.slots_NS[:, department] == rows.slots_NS[0, department]).all(), "the department is missing in each"
    assert np.array_equal(rows.slots_NS[0], rows.slots_NS[1])
    assert not np.array_equal(rows.slots_NS[0], rows.slots_NS[2])
    assert (rows.dense_NF[:, -1] == 1).all(), "the price is missing in each"
    assert len(encode_queries([], MODEL)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_embedder_reads_queries_one_by_one(kind: str) -> None:
    model = msgspec.structs.replace(MODEL, embedder=kind)
    towers = build_embedder(model).eval(), Contextualizer(model).eval()
    together = embed_queries(*towers, ["whole milk", "dog food"], model)
    assert together.shape == (2, 16)
    torch.testing.assert_close(together[1:], embed_queries(*towers, ["dog food"], model))
    assert not torch.allclose(together[0], together[1])
    assert embed_queries(*towers, [], model).shape == (0, 16)
    _, contextualizer = towers
    assert contextualizer.query_table is not None
    contextualizer.query_table.data.zero_()
    assert not torch.allclose(together, embed_queries(*towers, ["whole milk", "dog food"], model)), "both towers have a part"


def test_a_search_counts_directly_when_it_is_the_last_event_and_half_as_much_every_hour() -> None:
    now_ms, ages_ms = np.full(4, 10**12), np.array([0, HALF_LIFE_MS, 3 * HALF_LIFE_MS, -5])
    assert search_weight(np.ones(4, bool), now_ms, now_ms - ages_ms).tolist() == [1, 0.5, 0.125, 1]
    assert not search_weight(np.zeros(4, bool), now_ms, now_ms).any()


def test_an_event_has_the_vector_of_its_item_or_of_its_query() -> None:
    items_ND, searches_SD = torch.eye(3), 7 * torch.eye(3)[:2]
    rows_BL = torch.tensor([[2, -1, 0], [1, -2, 1]])
    read_BLD = event_vectors(items_ND, searches_SD, rows_BL)
    assert torch.equal(read_BLD[0], torch.stack([items_ND[2], searches_SD[0], items_ND[0]]))
    assert torch.equal(read_BLD[1], torch.stack([items_ND[1], searches_SD[1], items_ND[1]]))
    assert torch.equal(event_vectors(items_ND, searches_SD[:0], rows_BL[1:, ::2]), items_ND[torch.tensor([[1, 1]])])


def test_the_context_of_a_made_up_search_is_that_of_the_type_search() -> None:
    assert len(search_context(MODEL)) == 1


@pytest.mark.parametrize("name", ["price", "department", "gone"])
def test_only_a_text_can_read_queries(name: str) -> None:
    with pytest.raises(ValueError, match=f"query_field '{name}' is no text of the items"):
        msgspec.structs.replace(MODEL, query_field=name)
