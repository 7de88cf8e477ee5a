"""Checkpoints: weights, optimizer and position of a run. A killed run that is resumed ends as if it had not been killed.

N: items
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt
import pyarrow as pa
import torch
import xxhash
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.data.batches import BatchSampler
from training.losses.objective import Objective
from training.recipes.config import TrainConfig
from training.run.distributed import World, agreed, laid_out_like, whole
from training.run.stopping import EarlyStopping, StageEnd
from twotower.artefacts.manifest import move_into_place, seal, staging, verify_directory
from twotower.data.features import EncodedRows, fingerprint
from twotower.data.signals import Signals
from twotower.errors import ArtefactError, EnvironmentProblem, FormatError
from twotower.model.config import ModelConfig

KIND, STEP = "checkpoint", "step-"
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


class CheckpointMismatch(ArtefactError):
    """The checkpoint is of another run. The resumed model would not be that of any one config and data."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What must be equal when a run is resumed."""

    num_items: int
    data: str  # hash of all arrays that training reads
    config: TrainConfig
    model: ModelConfig


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a run is done."""

    step: int
    stage: int  # 0-based
    stage_step: int
    elapsed_s: float
    unused_s: float  # what stages that stopped early left of the run's minutes
    losses: list[float]  # of the last steps, in nats
    stopping: EarlyStopping
    ends: list[StageEnd]  # of the stages before


class _State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    identity: Identity
    position: Position


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The directory for checkpoints and for a batch on which training failed. `item_ids` [N] name the rows."""

    path: Path
    identity: Identity
    item_ids: pa.Array

    @property
    def checkpoints(self) -> Path:
        """Holds step-N/ of the newest checkpoint, of the best one and, while the newest is written, of the one before."""
        return checkpoints_of(self.path)

    def checkpoint(self, step: int) -> Path:
        """The directory of the checkpoint after a step."""
        return self.checkpoints / f"{STEP}{step:09d}"


def identify(
    config: TrainConfig, model: ModelConfig, items: EncodedRows, sampler: BatchSampler, signals: Signals | None = None
) -> Identity:
    """The identity of a run. Reads all its arrays once to hash them."""
    log = sampler.log
    arrays: list[npt.NDArray[Any]] = [sampler.offset_U1, sampler.bound_K, log.item_rows_E, log.times_ms_E, log.types_E]
    for rows in (log.context, items):
        arrays += [rows.slots_NS, rows.weights_NS, rows.dense_NF]
    if signals is not None:
        arrays += [signals.item_rows_R, signals.from_ms_R, signals.until_ms_R, signals.values_RS]
    if log.searches is not None:
        searches = log.searches
        arrays += [searches.offsets_U1, searches.times_ms_R, fingerprint("query", searches.queries)]
        arrays += [searches.context.slots_NS, searches.context.weights_NS, searches.context.dense_NF]
    hashed = xxhash.xxh3_128("\n".join(log.event_types).encode())
    for array in arrays:
        hashed.update(f"{array.dtype}{array.shape}".encode())
        hashed.update(array.data if array.size else b"")
    return Identity(num_items=len(items), data=hashed.hexdigest(), config=config, model=model)


def checkpoints_of(run: Path) -> Path:
    """The directory of a run's checkpoints."""
    return run / KIND


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint of the highest step; None if there is none."""
    return max(checkpoints_of(run).glob(f"{STEP}*"), default=None)


def refuse_unfinished(run: Path) -> None:
    """EnvironmentProblem if the directory holds a checkpoint of an unfinished run."""
    if (found := newest_checkpoint(run)) is not None:
        raise EnvironmentProblem(f"{found} is the checkpoint of an unfinished run: continue it with --resume, or delete {run}")


def save_checkpoint(
    run: RunDirectory, position: Position, objective: Objective, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Write a checkpoint, then remove those before except the best. Every rank must call this; rank 0 writes."""
    weights = gathered(objective.state_dict().items(), world)
    moments = gathered(named_moments(objective, optimizer), world)
    if not world.leads:
        return
    with staging(run.checkpoints) as staged:
        save_file(weights, staged / WEIGHTS)
        save_file(moments, staged / OPTIMIZER)
        (staged / STATE).write_bytes(msgspec.json.encode(_State(identity=run.identity, position=position)))
        seal(staged, KIND, parent=None)
        move_into_place(staged, run.checkpoint(position.step))
    needed = {run.checkpoint(position.step), run.checkpoint(position.stopping.best_step)}
    for other in (*run.checkpoints.glob(f"{STEP}*"), *run.checkpoints.glob(".staging-*")):
        if other not in needed:
            forget(other)


def gathered(tensors: Iterable[tuple[str, Tensor]], world: World) -> dict[str, Tensor]:
    """Full tensors on the CPU, on rank 0 only. Gathered one by one, because together they may not fit a GPU."""
    kept = {}
    for name, tensor in tensors:
        full = whole(tensor)
        if world.leads:
            kept[name] = full.detach().cpu().contiguous()
    return kept


def named_moments(objective: Objective, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's state of each weight, as pairs of "weight.slot" and tensor."""
    for name, parameter in objective.named_parameters():
        for slot, tensor in optimizer.state[parameter].items():
            yield f"{name}.{slot}", tensor


def load_checkpoint(run: RunDirectory, objective: Objective, optimizer: torch.optim.Optimizer, world: World) -> Position | None:
    """Load the newest checkpoint into both, in place, and return its position; None if there is no checkpoint.

    Every rank reads the directory. CheckpointMismatch if it is of another run, IntegrityError if a file is damaged.
    """
    path = newest_checkpoint(run.path)
    step = 0 if path is None else int(path.name.removeprefix(STEP))
    if step != (first := agreed(step, world)):
        raise EnvironmentProblem(
            f"rank {world.rank} finds the checkpoint of step {step} in {run.path}, rank 0 that of step {first:.0f}: "
            f"put --run on a file system that all ranks share"
        )
    if path is None:
        return None
    verify_directory(path, KIND)
    try:
        state = msgspec.json.decode((path / STATE).read_bytes(), type=_State)
    except msgspec.DecodeError as error:
        raise FormatError(f"{path / STATE}: {error}. Finish the run with the version of twotower that began it.") from error
    if differences := compare(state.identity, run.identity):
        raise CheckpointMismatch(
            f"{path} is of another run: {'; '.join(differences)}. Resume with the arguments and files that began it, or train "
            f"anew with another --run or after deleting {run.path}."
        )
    load_tensors(path, objective, optimizer)
    return state.position


def load_best(run: RunDirectory, step: int, objective: Objective, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Load the checkpoint of the best evaluation into both, in place. Every rank reads it and waits until all have read it."""
    verify_directory(run.checkpoint(step), KIND)
    load_tensors(run.checkpoint(step), objective, optimizer)
    agreed(step, world)


def load_tensors(path: Path, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """Load the tensors of a checkpoint into both, in place."""
    weights = load_file(path / WEIGHTS)
    objective.load_state_dict({name: laid_out_like(weights[name], tensor) for name, tensor in objective.state_dict().items()})
    parameters = dict(objective.named_parameters())
    for key, tensor in load_file(path / OPTIMIZER).items():
        name, _, slot = key.rpartition(".")
        optimizer.state[parameters[name]][slot] = laid_out_like(tensor, parameters[name])


def compare(was: Identity, now: Identity) -> list[str]:
    """The differences as sentences for an error message."""
    differences = [
        f"{name} was {getattr(was.config, name)}, now it is {getattr(now.config, name)}"
        for name in TrainConfig.__struct_fields__
        if getattr(was.config, name) != getattr(now.config, name)
    ]
    if was.num_items != now.num_items:
        differences.append(f"its catalogue has {was.num_items:,} items, this one {now.num_items:,}")
    elif was.data != now.data:
        differences.append("its events, items or signals are different")
    elif was.model != now.model and not differences:
        differences.append("this version of twotower builds another model")
    return differences


def forget_checkpoints(run: Path) -> None:
    """Remove all checkpoints, which a finished run does not need."""
    forget(checkpoints_of(run))


def forget(path: Path) -> None:
    """Remove a directory. Errors are ignored, because leftovers do no harm."""
    shutil.rmtree(path, ignore_errors=True)
