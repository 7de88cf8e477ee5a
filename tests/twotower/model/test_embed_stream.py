"""Batches embedded through buffers, as on a GPU, get the vectors that they get without."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from twotower.artefacts.bundle import load_bundle
from twotower.data.features import EncodedRows
from twotower.device import ON_CPU
from twotower.model.catalogue import embed_rows, encode_items, stream_items
from twotower.model.embed_stream import BUFFERS, embed_stream

SIZES = [5, 40, 0, 7, 1, 40, 3]  # a buffer that has grown is used for few items, and grows again


def test_every_batch_gets_its_vectors_in_order(tiny_shop: Path, tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    model = towers.config.model
    (table,) = stream_items(tiny_shop / "items.parquet", towers.schema.items)
    rows = encode_items(table, model.item_spec, model.table_rows)
    ends = np.cumsum(SIZES)
    places = [slice(end - size, end) for end, size in zip(ends.tolist(), SIZES, strict=True)]
    taken = 0

    def batches() -> Iterator[tuple[slice, EncodedRows]]:
        nonlocal taken
        for place in places:
            taken += 1
            yield place, rows.take(place)

    expected_ND = embed_rows(towers.embedder, rows).numpy()
    for number, (place, vectors_nD) in enumerate(embed_stream(towers.embedder, batches(), ON_CPU)):
        assert place == places[number]
        assert taken <= number + 1 + BUFFERS, "so many batches are in memory"
        if SIZES[number]:
            np.testing.assert_allclose(vectors_nD, expected_ND[place], rtol=1e-5, atol=1e-6)
        else:
            assert vectors_nD.shape == (0, 0)
    assert number == len(SIZES) - 1


def test_vectors_are_kept_while_the_buffer_goes_on() -> None:
    def embedder(slots: torch.Tensor, weights: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return dense * 2

    def batch(value: float) -> EncodedRows:
        return EncodedRows(np.zeros((2, 1), np.int64), np.zeros((2, 1), np.float32), np.full((2, 1), value, np.float32))

    found = list(embed_stream(embedder, ((value, batch(value)) for value in range(7)), ON_CPU))  # type: ignore[arg-type]
    assert [(value, vectors.tolist()) for value, vectors in found] == [(v, [[2.0 * v]] * 2) for v in range(7)]
