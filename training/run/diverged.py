"""When a loss or gradient is not finite, training stops, and the data of the step are written to a file for inspection."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from training.data.batches import TrainBatch
from training.losses.candidates import Candidates
from training.losses.objective import TrainedItems
from training.run.checkpoint import RunDirectory
from twotower.errors import TwoTowerError


class TrainingDiverged(TwoTowerError):
    """The loss, a gradient or a weight is not finite. No bundle is written."""


def keep_step(
    run: RunDirectory, step: int, batch: TrainBatch, drawn: TrainedItems | Candidates | None, user_ids: list[str]
) -> Path:
    """Write every tensor that the step read to diverged-step-N.safetensors, and its users and items to a .json beside it."""
    tensors = flat(batch, "batch") | (flat(drawn, "candidates") if drawn is not None else {})
    path = run.path / f"diverged-step-{step}.safetensors"
    run.path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    rows = np.unique(torch.cat([batch.histories.item_rows_BL.flatten(), batch.past.rows_M, batch.answer_rows_A]).numpy())
    rows = rows[rows >= 0]  # the others are searches
    names = {
        "step": step,
        "not_finite": [name for name, tensor in tensors.items() if not tensor.isfinite().all()],
        "users": [user_ids[user] for user in np.unique(batch.users_B)],
        "items": run.item_ids.take(rows).to_pylist(),
    }
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(names)))
    return path


def flat(record: object, name: str) -> dict[str, Tensor]:
    """The tensors and arrays of a dataclass and of dataclasses inside it, by dotted names."""
    if isinstance(record, Tensor):
        return {name: record.detach().cpu().clone().contiguous()}
    if isinstance(record, np.ndarray):
        return {name: torch.from_numpy(np.array(record))}
    if record is None or isinstance(record, float):
        return {}
    assert is_dataclass(record), f"{name} is neither a tensor nor made of them"
    return {key: tensor for f in fields(record) for key, tensor in flat(getattr(record, f.name), f"{name}.{f.name}").items()}
