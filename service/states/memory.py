"""What a reader remembers of the events of one history: their keys and values.

L: layers; C: events a memory has room for; G: key/value heads; E: head width; D: width
"""

from typing import Protocol

import numpy as np

from twotower.data.features import Floats
from twotower.data.window import PAGE
from twotower.model.config import ModelConfig

UserKey = tuple[str, str]  # "user" or "session", and its id


class Memory(Protocol):
    """What a reader keeps of the events that it has read of one history."""

    @property
    def length(self) -> int:
        """Number of events that need not be read again. It may fall between two requests."""

    @property
    def num_bytes(self) -> int:
        """Bytes that count for the budget of the `UserCache`."""

    @property
    def knows_last(self) -> bool:
        """Whether the hidden state after the last event is kept; if not, the last event is read again for a query."""

    def cut(self, length: int) -> None:
        """Forget all events after the first `length`, and maybe some before."""

    def copy(self) -> "Memory":
        """A memory of the same events, or of the first of them, that can read on without changing this one."""


class ArrayMemory:
    """Keys and values of the events read from one history, and the hidden state after the last one. It grows by whole pages."""

    __slots__ = ("keys_LGCE", "last_D", "length", "values_LGCE")

    def __init__(self, config: ModelConfig) -> None:
        shape = (config.num_layers, config.num_kv_heads, 0, config.width // config.num_heads)
        self.keys_LGCE, self.values_LGCE = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length = 0
        self.last_D: Floats | None = None  # None: nothing was read, or the memory was cut

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays of keys and values, room for further events included."""
        return self.keys_LGCE.nbytes + self.values_LGCE.nbytes

    @property
    def knows_last(self) -> bool:
        """Whether the hidden state after the last event is kept."""
        return self.last_D is not None

    def cut(self, length: int) -> None:
        """Forget all events after the first `length`."""
        if length < self.length:
            self.length, self.last_D = length, None

    def copy(self) -> "ArrayMemory":
        """A copy that can read further events without changing this memory."""
        copy = ArrayMemory.__new__(ArrayMemory)
        copy.keys_LGCE, copy.values_LGCE = self.keys_LGCE.copy(), self.values_LGCE.copy()
        copy.length, copy.last_D = self.length, self.last_D
        return copy

    def make_room(self, length: int) -> None:
        """Grow the arrays until they have room for `length` events."""
        if length > self.keys_LGCE.shape[2]:
            room = -(-length // PAGE) * PAGE
            self.keys_LGCE, self.values_LGCE = (self._grown(part, room) for part in (self.keys_LGCE, self.values_LGCE))

    def _grown(self, part_LGCE: Floats, room: int) -> Floats:
        layers, groups, _, width = part_LGCE.shape
        grown_LGCE = np.empty((layers, groups, room, width), np.float32)
        grown_LGCE[:, :, : self.length] = part_LGCE[:, :, : self.length]
        return grown_LGCE
