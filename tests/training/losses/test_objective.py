"""The loss of both stages, and id dropout."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.training.conftest import LEARNS, Shop, searching
from training.losses.objective import FrozenItems, Objective, hide_ids
from training.run.loop import NAMED, draw_named, draw_trained_items, embed_catalogue_once, prepare_training, train
from twotower.model.catalogue import embed_rows
from twotower.model.config import ModelConfig
from twotower.model.searches import embed_queries


def test_id_dropout_silences_ids_and_nothing_else(shop: Shop) -> None:
    rows = shop.items.take(np.arange(200))
    before = rows.weights_NS.copy()
    hide_ids(rows, shop.model, 0.5, np.random.default_rng(0))
    num_ids = shop.model.item_spec.num_id_hashes
    hidden = (rows.weights_NS[:, :num_ids] == 0).all(1)
    assert 60 < hidden.sum() < 140
    np.testing.assert_array_equal(rows.weights_NS[:, num_ids:], before[:, num_ids:])
    assert (shop.items.weights_NS[:200, :num_ids] != 0).all(), "the catalogue itself is untouched"


def test_mixed_precision_computes_nearly_the_same_loss_and_gradients(shop: Shop) -> None:
    """On a CPU here; the same casts happen on a GPU."""
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    batch = inputs.sampler.sample(np.random.default_rng(0))
    objective = state.objective.eval()
    for scored in (draw_trained_items(inputs, state, batch), FrozenItems(embed_catalogue_once(inputs, state), None)):
        found = []
        for enabled in (False, True):
            objective.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = objective(batch, scored)
            loss.backward()
            gradient = objective.contextualizer.query_scale.grad
            assert gradient is not None
            assert loss.dtype == gradient.dtype == torch.float32
            found.append((loss.item(), gradient.clone()))
        (exact, exact_gradient), (mixed, mixed_gradient) = found
        assert mixed == pytest.approx(exact, rel=1e-2)
        assert torch.cosine_similarity(mixed_gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.98


def test_naming_items_teaches_the_table_of_words_and_nothing_else(shop: Shop, tiny_shop: Path) -> None:
    sampler = searching(shop, tiny_shop)
    inputs, state = prepare_training(shop.config, sampler.model, shop.items, sampler, shop.data.snapshots)
    frozen = FrozenItems(embed_catalogue_once(inputs, state), None)
    batch = sampler.sample(np.random.default_rng(0))
    assert draw_trained_items(inputs, state, batch).named is not None
    named = draw_named(inputs, np.random.default_rng(0), np.arange(len(shop.items)))
    assert named is not None
    assert 0.9 * NAMED < len(named.queries) == len(named.target_S) < NAMED, "few items have no words"
    vectors_ND = frozen.vectors_ND.clone().requires_grad_()
    loss = state.objective._naming_loss(named, vectors_ND)
    assert isinstance(loss, torch.Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    assert vectors_ND.grad is None
    assert [name for name, p in state.objective.named_parameters() if p.grad is not None] == ["contextualizer.query_table"]


def test_a_search_finds_items_by_their_words_after_a_little_training(shop: Shop, tiny_shop: Path) -> None:
    sampler = searching(shop, tiny_shop, 0.1)
    config = msgspec.structs.replace(LEARNS, search_share=0.1)
    inputs, state = prepare_training(config, sampler.model, shop.items, sampler, shop.data.snapshots)
    titles = [title or "" for title in pq.read_table(tiny_shop / "items.parquet")["title"].to_pylist()]
    before = found(state.objective, sampler.model, shop, titles)
    after = found(train(inputs, state).objective, sampler.model, shop, titles)
    assert before < 0.2
    assert after > 0.35


def found(objective: Objective, model: ModelConfig, shop: Shop, titles: list[str]) -> float:
    """The share of the ten best items by the query alone that have the word in their title."""
    nouns = ["bread", "milk", "rice", "soap", "coffee", "cheese"]
    objective.eval()
    vectors_ND = embed_rows(objective.embedder, shop.items)
    queries_SD = embed_queries(objective.embedder, objective.contextualizer, nouns, model)
    best_SK = (queries_SD @ vectors_ND.T).topk(10).indices.tolist()
    return sum(noun in titles[row] for noun, rows in zip(nouns, best_SK, strict=True) for row in rows) / (10 * len(nouns))
