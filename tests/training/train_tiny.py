"""Train on a small shop in a separate process, which can kill itself at a given step: `python -m tests.training.train_tiny`."""

import importlib
import math
import multiprocessing.process
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import torch

from tests.training.conftest import read_shop
from training.recipes.config import TrainConfig
from training.run.checkpoint import RunDirectory, identify
from training.run.distributed import joined, launched_world
from training.run.loop import StepReport, prepare_training, resumed, train


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do. It dies on calling `dies_in` (module:function) after so many steps, by kill -9."""

    shop: str
    run: str
    losses: str  # file that gets a line "step loss" per step
    config: TrainConfig
    dies_in: str | None = None
    dies_at: int = 0
    dying_rank: int = 0
    values: tuple[float, ...] = ()  # of the metric to stop by, after each step


def start(errand: Errand, **environment: str) -> multiprocessing.process.BaseProcess:
    """In a process of its own, forked from one that has imported everything."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    process = processes.Process(target=main, args=(errand, environment))
    process.start()
    return process


def main(errand: Errand, environment: Mapping[str, str] = MappingProxyType({})) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    world = launched_world(None)
    step = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if step == errand.dies_at and world.rank == errand.dying_rank:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        return call

    def note(report: StepReport) -> float | None:
        nonlocal step
        step = report.step
        if world.leads:
            with Path(errand.losses).open("a") as file:
                file.write(f"{report.step} {report.step_loss!r}\n")
        if not errand.values:
            return None
        return errand.values[report.step - 1] if world.leads else math.nan

    if errand.dies_in is not None:
        module, name = errand.dies_in.split(":")
        here = importlib.import_module(module)
        setattr(here, name, deadly(getattr(here, name)))
    shop = read_shop(Path(errand.shop), errand.config)
    sampler = shop.sampler()
    files = RunDirectory(Path(errand.run), identify(errand.config, shop.model, shop.items, sampler), shop.data.item_ids)
    with joined(world):
        inputs, state = prepare_training(errand.config, shop.model, shop.items, sampler, shop.data.snapshots, files, world)
        train(inputs, resumed(inputs, state), note)


def read_losses(path: Path) -> list[tuple[int, float]]:
    """Every step that was noted, also those that were done again."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(step), float(loss)) for step, loss in lines]


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Errand))
