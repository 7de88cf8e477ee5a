"""What a reader needs of the contexts of events, which are event types and event features. Items and times are handled elsewhere.

What comes from event types and categories is cached, because most events have one of few combinations. Numbers are encoded anew,
because they rarely repeat.

T: events, K: cached combinations, W: numbers cached of each, S: hash slots of a context,
N: numeric features, F: dense features
"""

import math
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from service.histories.history import StoredEvent
from twotower.artefacts.bundle import Towers
from twotower.data.features import Floats, Rows, encode_rows, encode_wanted, piecewise_linear
from twotower.data.schema import EVENT_TYPE

KEPT = 4096  # cached combinations, of half a kB each

Slots = Callable[[Rows, Floats], Floats]


class Contexts:
    """Contexts for one release, with a cache. Not thread-safe: only the engine's thread may use it.

    `made` turns slots and weights [N, S] into what is cached of each combination, [N, width].
    """

    def __init__(self, towers: Towers, made: Slots, width: int) -> None:
        self._model, self._made = towers.config.model, made
        spec = self._model.context_spec
        self._features = [field.name for field in spec.hashed if field.name != EVENT_TYPE]
        self._numbers = [field for field in spec.fields if field not in spec.hashed]
        self._places: dict[tuple[str | None, ...], int] = {}
        self._kept_KW = np.empty((KEPT, width), np.float32)
        self._wanted: dict[str | None, Floats] = {}

    def of(self, events: Sequence[StoredEvent]) -> Floats:
        """What is cached of the event type and categories of each event, [T, W]."""
        keys = [(e.event_type, *[text_of(e.properties.get(name)) for name in self._features]) for e in events]
        missing = {key for key in keys if key not in self._places}
        if missing:
            self._keep(missing, keys)
        return self._kept_KW.take([self._places[key] for key in keys], 0)

    def numbers(self, events: Sequence[StoredEvent]) -> Floats:
        """The encoded numeric features of each event, [T, F]."""
        values_TN = np.array([self.values(event) for event in events])
        parts = [piecewise_linear(values_T, field.edges) for values_T, field in zip(values_TN.T, self._numbers, strict=True)]
        return np.concatenate(parts, 1) if parts else np.zeros((len(events), 0), np.float32)

    def values(self, event: StoredEvent) -> npt.NDArray[np.float64]:
        """The numeric features of an event, [N], NaN where they are missing."""
        return np.array([number_of(event.properties.get(field.name)) for field in self._numbers], np.float64)

    def _keep(self, missing: Set[tuple[str | None, ...]], wanted: Sequence[tuple[str | None, ...]]) -> None:
        """Compute the missing combinations and cache them.

        If the cache has no room for them, it is emptied and gets all combinations of `wanted`, however many these are.
        """
        if len(self._places) + len(missing) > KEPT:
            self._places, missing = {}, set(wanted)
            self._kept_KW = np.empty((max(KEPT, len(missing)), self._kept_KW.shape[1]), np.float32)
        columns = dict(zip((EVENT_TYPE, *self._features), map(_texts, zip(*missing, strict=True)), strict=True))
        encoded = encode_rows(columns, self._model.context_spec, self._model.context_table_rows)
        start = len(self._places)
        self._kept_KW[start : start + len(missing)] = self._made(encoded.slots_NS, encoded.weights_NS)
        self._places.update(zip(missing, range(start, start + len(missing)), strict=True))

    def wanted(self, event_type: str | None) -> Floats:
        """What `made` makes of a request's `target_event_type`, for one request."""
        if event_type not in self._wanted:
            slots, weights = encode_wanted([event_type], self._model.context_spec, self._model.context_table_rows)
            if len(self._wanted) == KEPT:
                self._wanted.clear()
            (self._wanted[event_type],) = self._made(slots, weights)
        return self._wanted[event_type]


def _texts(values: Iterable[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def text_of(value: Any) -> str | None:
    """The value of a categorical feature; None is a missing value."""
    return None if value is None else str(value)


def number_of(value: Any) -> float:
    """The value of a numeric feature, NaN if it is not a number: a stored event may be older than the schema."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
