"""The numbers of a batch in one buffer of 32 bits each, so that one copy brings all of them to a device.

T: new events of all histories, Q: requests (the last one is nobody's: padding belongs to it), F: Q + 1, P: pages of a history at
most, M: past items of all requests, X: rows that a search leaves out, S: hash slots, W: dense features of an event
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Generic, NamedTuple, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES
from twotower.model.config import ModelConfig

Array = npt.NDArray[Any]
A = TypeVar("A")

_KEPT = 1024  # shapes whose sizes are kept
_ALIGNED = 16  # numbers: each part begins at a multiple of 64 bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a batch, rounded up, so that few different ones occur."""

    num_requests: int  # without the last one
    num_events: int
    most_new: int  # events of one history
    num_past: int
    num_excluded: int
    num_found: int  # results of the search, 0 for none


class Inputs(NamedTuple, Generic[A]):
    """The parts of a buffer: its views, as tensors or as arrays."""

    rows_T: A  # item rows of new events
    places_T: A  # where their keys and values are stored, -1 for padding
    positions_T: A
    slots_TS: A
    weights_TS: A
    dense_TW: A
    lengths_Q: A  # of histories, new events included
    offsets_F: A  # first new event of each
    last_Q: A  # last new event of each
    is_empty_Q: A
    pages_QP: A
    times_QR: A
    activity_Q6: A
    wanted_QS: A
    wanted_weights_QS: A
    past_rows_M: A
    past_offsets_F: A  # first past item of each request, and the end of the last's; items after it are nobody's
    past_features_M6: A
    excluded_QX: A


_FLOATS = {"weights_TS", "dense_TW", "times_QR", "activity_Q6", "wanted_weights_QS", "past_features_M6"}


class Layout:
    """Where the parts of a buffer lie, for one model."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._sizes: dict[Shape, dict[str, tuple[int, ...]]] = {}

    def num_numbers(self, shape: Shape) -> int:
        """How many numbers a buffer holds."""
        return sum(_room(size) for size in self._sizes_of(shape).values())

    def views(self, buffer: Tensor, shape: Shape) -> Inputs[Tensor]:
        """The parts of a buffer of int32, without a copy."""
        parts, start = {}, 0
        for name, size in self._sizes_of(shape).items():
            part = buffer[start : start + prod(size)]
            parts[name] = (part.view(torch.float32) if name in _FLOATS else part).view(size)
            start += _room(size)
        return Inputs(**parts)

    def _sizes_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        if shape not in self._sizes:
            if len(self._sizes) == _KEPT:
                self._sizes.clear()
            self._sizes[shape] = self._sizes_anew(shape)
        return self._sizes[shape]

    def _sizes_anew(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        config, num_requests = self._config, shape.num_requests + 1
        num_slots, num_wanted = sum(config.context_spec.slot_counts), config.context_spec.num_hashes
        return {
            "rows_T": (shape.num_events,),
            "places_T": (shape.num_events,),
            "positions_T": (shape.num_events,),
            "slots_TS": (shape.num_events, num_slots),
            "weights_TS": (shape.num_events, num_slots),
            "dense_TW": (shape.num_events, config.context_input),
            "lengths_Q": (num_requests,),
            "offsets_F": (num_requests + 1,),
            "last_Q": (num_requests,),
            "is_empty_Q": (num_requests,),
            "pages_QP": (num_requests, config.window // config.page),
            "times_QR": (num_requests, config.request_time_width),
            "activity_Q6": (num_requests, NUM_ACTIVITY_FEATURES),
            "wanted_QS": (num_requests, num_wanted),
            "wanted_weights_QS": (num_requests, num_wanted),
            "past_rows_M": (shape.num_past,),
            "past_offsets_F": (num_requests + 1,),
            "past_features_M6": (shape.num_past, NUM_PAST_FEATURES),
            "excluded_QX": (num_requests, shape.num_excluded),
        }


def _room(size: tuple[int, ...]) -> int:
    """Numbers that a part takes with the gap after it."""
    return -(-prod(size) // _ALIGNED) * _ALIGNED


def num_joined(sizes: list[tuple[tuple[int, ...], torch.dtype]]) -> int:
    """How many numbers results of these sizes take in one buffer."""
    return sum(prod(size) for size, _ in sizes)


def split(buffer: Tensor, sizes: list[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    """The results in a buffer of int32, of these sizes and types, each of 32 bits, without a copy."""
    parts, start = [], 0
    for size, dtype in sizes:
        parts.append(buffer[start : start + prod(size)].view(dtype).view(size))
        start += prod(size)
    return parts
