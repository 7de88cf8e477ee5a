"""Causality, padding, rotary positions: what the serving cache will stand on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.artefacts.bundle import Towers, load_bundle
from twotower.data.features import EncodedRows
from twotower.data.window import History, HistoryBatch, collate
from twotower.model.contextualizer import length_groups


def batch_of(towers: Towers, *lengths: int) -> HistoryBatch:
    spec = towers.config.model.context_spec
    rng = np.random.default_rng(3)
    histories = []
    for n in lengths:
        context = EncodedRows(
            rng.integers(0, 32, (n, sum(spec.slot_counts))).astype(np.int32),
            np.ones((n, sum(spec.slot_counts)), np.float32),
            rng.random((n, spec.dense_width)).astype(np.float32),
        )
        histories.append(History(rng.integers(0, 100, n), np.sort(rng.integers(0, 10**9, n)), context))
    return collate(histories)


def hidden(towers: Towers, batch: HistoryBatch) -> Tensor:
    vectors = torch.randn(100, towers.config.model.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out: Tensor = towers.contextualizer(vectors[batch.item_rows_BL], batch)
    return out


def test_no_event_sees_a_later_one(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    batch = batch_of(towers, 20)
    changed = replace(batch, item_rows_BL=batch.item_rows_BL.clone(), time_BL6=batch.time_BL6.clone())
    changed.item_rows_BL[:, 12:] = 0
    changed.time_BL6[:, 12:] = 9.0
    before, after = hidden(towers, batch), hidden(towers, changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_padding_changes_nothing(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    together = hidden(towers, batch_of(towers, 5, 30))
    torch.testing.assert_close(together[0, :5], hidden(towers, batch_of(towers, 5))[0], rtol=1e-4, atol=1e-5)


def test_histories_of_all_lengths_are_computed_as_each_alone(tiny_bundle: Path) -> None:
    """Many histories of different lengths are grouped; what a history's events say does not change."""
    towers = load_bundle(tiny_bundle).towers
    batch = batch_of(towers, 1, 40, *range(17))
    assert len(length_groups(batch.lengths_B, 40)) == 6
    together = hidden(towers, batch)
    for b in (0, 1, 5, 18):
        length = max(int(batch.lengths_B[b]), 1)
        torch.testing.assert_close(
            together[b, :length], hidden(towers, batch.take(torch.tensor([b]), length))[0], rtol=1e-4, atol=1e-5
        )


def test_the_query_of_a_new_model_is_popularity_where_it_has_read_nothing(tiny_bundle: Path) -> None:
    contextualizer = load_bundle(tiny_bundle).towers.contextualizer
    width = contextualizer.width
    query = contextualizer.queries(torch.zeros(1, contextualizer.popularity_hidden.in_features))
    assert torch.equal(query[0, width:], torch.ones(1))
    assert torch.equal(query[0, :width], torch.zeros(width))
