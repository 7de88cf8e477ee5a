"""The data of a step that diverged are written to files."""

import json
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from tests.training.conftest import Shop
from training.run.checkpoint import RunDirectory, identify
from training.run.diverged import keep_step


def test_a_kept_step_holds_every_tensor_and_names_users_items_and_bad_values(shop: Shop, tmp_path: Path) -> None:
    sampler = shop.sampler()
    batch = sampler.sample(np.random.default_rng(0))
    batch.request_Q7[3, 2] = np.inf
    files = RunDirectory(tmp_path / "run", identify(shop.config, shop.model, shop.items, sampler), shop.data.item_ids)

    path = keep_step(files, 12, batch, None, shop.data.log.user_ids)

    assert path.name == "diverged-step-12.safetensors"
    kept = load_file(path)
    assert kept["batch.histories.item_rows_BL"].equal(batch.histories.item_rows_BL)
    assert kept["batch.now_ms_Q"].tolist() == batch.now_ms_Q.tolist()
    names = json.loads(path.with_suffix(".json").read_bytes())
    assert names["not_finite"] == ["batch.request_Q7"]
    assert set(names["users"]) == {shop.data.log.user_ids[u] for u in batch.users_B}
    answers = shop.data.item_ids.take(batch.answer_rows_A.numpy()).to_pylist()
    assert set(answers) <= set(names["items"])
