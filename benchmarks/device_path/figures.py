"""Figures of the path on a GPU, and how they are timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the path. Without a value, `note` says why it was not measured."""

    name: str
    value: float | None
    unit: str
    better: Literal["higher", "lower"]
    note: str = ""


def seconds(run: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of each call, with the device idle before and after, once the first calls have compiled what they need."""
    found = []
    for number in range(rounds + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number >= 3:
            found.append(time.perf_counter() - started)
    return found
