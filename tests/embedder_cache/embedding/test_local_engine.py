"""The engine of this process gives the same vectors whether batches are embedded side by side or, as on a GPU, in turn."""

from pathlib import Path

import numpy as np
import torch

from embedder_cache.catalogue.intake import take_in
from embedder_cache.embedding.local_engine import embed_here, embed_in_turn, embed_on
from twotower.artefacts.bundle import load_bundle
from twotower.device import ON_CPU, Device


def test_on_a_cpu_batches_are_embedded_side_by_side() -> None:
    assert embed_on(ON_CPU) is embed_here


def test_in_turn_each_batch_gets_the_same_vectors(tiny_shop: Path, tiny_bundle: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    intake = take_in(items, bundle.towers.schema.items, bundle.towers.config.model.item_spec)
    for todo_N in (np.arange(len(intake.item_ids)) % 3 == 0, np.zeros(len(intake.item_ids), bool)):
        both = zip(embed_here(bundle, items, intake, todo_N), embed_in_turn(ON_CPU, bundle, items, intake, todo_N), strict=True)
        for (table, place, expected_MD), (same_table, same_place, vectors_MD) in both:
            assert (same_table, same_place) == (table, place)
            assert vectors_MD.shape == expected_MD.shape
            np.testing.assert_allclose(vectors_MD, expected_MD, rtol=1e-5, atol=1e-6)


def test_a_gpu_takes_them_in_turn() -> None:
    assert embed_on(Device(torch.device("cuda"))) is not embed_here
