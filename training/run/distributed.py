"""One run over several processes: each takes some windows of the global batch, and the losses of all processes are summed.

`torchrun` starts the processes and gives each its rank. Every rank draws the same batch and the same candidates. Answers keep
their weights in the global batch, so the losses of the ranks add up to what one process would compute.

B: windows, Q: queries, M: past items of all queries, A: answers
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from training.data.batches import Axis, TrainBatch
from training.losses.objective import Objective
from twotower.device import ON_CPU, Device, Needs, choose, may_have_gpu, with_room
from twotower.device_option import Wanted
from twotower.progress import CONSOLE

TIMEOUT = timedelta(minutes=10)  # a rank that waits longer for another ends with an error
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # set by torchrun


@dataclass(frozen=True, slots=True)
class World:
    """The rank of this process, the number of processes, and the device of this process."""

    rank: int = 0
    size: int = 1
    chosen: Device = ON_CPU

    @property
    def device(self) -> torch.device:
        """The device that tensors of this process lie on."""
        return self.chosen.torch_device

    @property
    def leads(self) -> bool:
        """Whether this process prints, evaluates and writes."""
        return self.rank == 0


ALONE = World()


def launched_world(wanted: Wanted | None) -> World:
    """The rank and size that torchrun gave this process (0 and 1 without it), and the device that `--device` asks for.

    None asks for `auto` where the driver of a GPU is loaded, and else for the CPU. Each process of a machine takes a GPU of its
    own. Only rank 0 prints from here on.
    """
    wanted = wanted or ("auto" if may_have_gpu() else "cpu")
    rank, size, local = (int(os.environ[n]) for n in ENVIRONMENT) if dist.is_torchelastic_launched() else (0, 1, 0)
    CONSOLE.quiet = rank > 0
    return World(rank, size, choose(wanted, index=local))


def world_with_room(world: World, needs: Needs) -> World:
    """The world, on the CPU if `auto` took a GPU without room for `needs`; EnvironmentProblem if `cuda` asked for that GPU.

    Also if there are several processes, because all must compute on the same kind of device.
    """
    fixed = replace(world.chosen, is_auto=world.chosen.is_auto and world.size == 1)
    return replace(world, chosen=with_room(fixed, needs))


@contextmanager
def joined(world: World) -> Iterator[None]:
    """Connect the ranks, by gloo on CPUs and nccl on GPUs, and disconnect at the end."""
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1:
        yield
        return
    dist.init_process_group("nccl" if world.device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard_weights(objective: Objective, sharding: Literal["ddp", "fsdp"], world: World) -> None:
    """Under FSDP2, shard every weight over the ranks, in place. To be called before the optimizer is made."""
    if world.size > 1 and sharding == "fsdp":
        # As one unit, because histories are grouped by length: blocks run a different number of times on each rank, so units
        # that are gathered at every call would wait for each other forever.
        fully_shard(objective, mesh=init_device_mesh(world.device.type, (world.size,)))


def share_gradients(objective: Objective, sharding: Literal["ddp", "fsdp"], world: World) -> nn.Module:
    """The module that a step calls; its backward pass averages gradients over ranks. To be made anew when weights are frozen."""
    if world.size > 1 and sharding == "ddp":
        return DistributedDataParallel(objective, broadcast_buffers=False)
    return objective


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of which each rank holds a part. Every rank must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The full tensor moved to the device of `pattern` and sharded in the same way."""
    if isinstance(pattern, DTensor) and tensor.ndim:
        return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)
    return tensor.to(pattern.device)


def summed(value: Tensor, world: World) -> float:
    """The sum of the value over all ranks."""
    if world.size > 1:
        dist.all_reduce(value)
    return value.item()


def agreed(value: float, world: World) -> float:
    """The value of rank 0, so that all ranks decide alike."""
    return summed(torch.tensor(value if world.leads else 0.0, dtype=torch.float64, device=world.device), world)


def shard_batch(batch: TrainBatch, world: World) -> TrainBatch:
    """The windows rank, rank + size, ... with their queries, if any. The weights of all ranks together sum to 1."""
    if world.size == 1:
        return batch
    mine_B = torch.arange(len(batch.users_B)) % world.size == world.rank
    mine_Q = mine_B[batch.window_Q]
    mine: dict[Axis, Tensor] = {"B": mine_B, "Q": mine_Q, "M": mine_Q[batch.past.request_M], "A": mine_Q[batch.answer_query_A]}
    mine["S"] = torch.ones(len(batch.searches), dtype=torch.bool)  # histories name searches by their place among all
    part = pick(batch, mine)
    place_Q = torch.cumsum(mine_Q, 0) - 1
    return replace(
        part,
        window_Q=part.window_Q // world.size,
        past=replace(part.past, request_M=place_Q[part.past.request_M]),
        answer_query_A=place_Q[part.answer_query_A],
    )


def pick(batch: TrainBatch, mine: Mapping[Axis, Tensor]) -> TrainBatch:
    """The rows of a batch that are `mine` (a mask per axis). The metadata of a field of TrainBatch names its axis."""

    def rows_of(value: Any, axis: Axis, exceptions: Mapping[str, Axis]) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in fields(value)]
            return replace(value, **{n: rows_of(getattr(value, n), exceptions.get(n, axis), {}) for n in names})
        return value[mine[axis]] if isinstance(value, Tensor) else value[mine[axis].numpy()]

    return replace(batch, **{f.name: rows_of(getattr(batch, f.name), **f.metadata) for f in fields(batch)})
