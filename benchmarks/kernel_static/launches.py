"""Counts what one batch of serving launches on a GPU, without one: kernels of each layer, of the rest, of the search, and copies.

The batch is computed on CPU tensors. An operation of ours counts as its one kernel, an operation of torch that is no view counts
as one too, and the search counts as recorded in `golden/kernel_resources.json`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.kernel_static.sizes import default_config
from service.model.device_model import DeviceModel
from service.model.packing import Shape
from service.model.pages import PagePool
from twotower.model.contextualizer import Contextualizer

MOST_PER_LAYER, MOST_BESIDE, MOST_COPIES = 12, 12, 3
COPIES = 2  # one to the device, one from it
_RECORD = Path(__file__).parents[1] / "golden/kernel_resources.json"
SEARCH = "top-k int8 128+2, 64 queries, filtered/group_bounds"
_OPS = (
    *(f"service.kernels.{op}" for op in ("event_input", "past_scores", "queries", "query_input")),
    *(f"twotower.kernels.{op}" for op in ("linear_norm", "linear_swiglu", "paged_attention", "paged_projection")),
)
_BATCHES = {
    "32 requests, one new event each": Shape(32, 33, 1, 2048, 64, 32),
    "32 requests, cold": Shape(32, 64, 2, 2048, 64, 32),  # the number of events does not change the number of launches
}


@dataclass(frozen=True, slots=True)
class Launches:
    """Of one batch. With a graph all kernels are one launch."""

    batch: str
    most_of_a_layer: int
    beside: int  # before the layers and after them
    search: int
    in_a_graph: bool
    copies: int = COPIES

    def __str__(self) -> str:
        start = "one graph launch" if self.in_a_graph else "no graph"
        kernels = f"at most {self.most_of_a_layer} kernels a layer, {self.beside} beside the layers, {self.search} of the search"
        return f"{self.batch}: {start}, {self.copies} copies; {kernels}"


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that are not views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.layers = 0, list[int]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view and "empty" not in function.__name__
        return function(*args, **kwargs or {})

    def as_one(self, kernel: Any, reference: Callable[..., Any], *tensors: Tensor, fits: bool = True) -> Any:  # noqa: ARG002
        """What replaces `dispatch.run`: the reference computes, and one kernel is counted."""
        before = self.count
        result = reference(*tensors)
        self.count = before + 1
        if getattr(kernel, "__name__", "") == "paged_projection_triton":
            self.layers.append(self.count)
        return result


@contextmanager
def _counting() -> Iterator[_Counter]:
    counter = _Counter()
    with ExitStack() as stack:
        for op in _OPS:
            stack.enter_context(patch(f"{op}.run", counter.as_one))
        stack.enter_context(counter)
        yield counter


def default_model() -> DeviceModel:
    """A model of the default sizes, as it lies on a GPU."""
    config = default_config()
    pool = PagePool(config, torch.device("cpu"), torch.bfloat16, 64 << 20)
    vectors_NV = torch.zeros(64, config.width + config.num_popularity)
    return DeviceModel(Contextualizer(config), config, vectors_NV, pool, None)


def launches(model: DeviceModel) -> list[Launches]:
    """The launches of each kind of batch."""
    search: int = json.loads(_RECORD.read_text())["sm_90"][SEARCH]["launches"]
    return [_of(model, batch, shape, search) for batch, shape in _BATCHES.items()]


def _of(model: DeviceModel, batch: str, shape: Shape, search: int) -> Launches:
    buffer = torch.zeros(model.layout.num_numbers(shape), dtype=torch.int32)
    inputs = model.layout.views(buffer, shape)
    inputs.places_T.fill_(-1)
    with _counting() as counter:
        model.results(buffer, shape)
    layers = [after - before for before, after in zip(counter.layers, counter.layers[1:], strict=False)]
    return Launches(batch, max(layers), counter.count - sum(layers) - layers[-1], search, shape.most_new == 1)
