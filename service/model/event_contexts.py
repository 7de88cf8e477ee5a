"""Context vectors of events, made from event types and event features. Items and times of events are handled elsewhere.

A context vector is a sum over the features. The part from event types and categories is cached, because most events have one of
few combinations. The part from numbers is computed anew, because numbers rarely repeat.

T: events, D: model width
"""

import math
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa

from service.histories.history import StoredEvent
from service.model.incremental import Reader
from twotower.artefacts.bundle import Towers
from twotower.data.features import Floats, encode_rows, encode_wanted, piecewise_linear
from twotower.data.schema import EVENT_TYPE

KEPT = 4096  # cached vectors, of half a kB each


class Contexts:
    """Context vectors for one release, with a cache. Not thread-safe: only the engine's thread may use it."""

    def __init__(self, towers: Towers, reader: Reader) -> None:
        self._model, self._reader = towers.config.model, reader
        spec = self._model.context_spec
        self._features = [field.name for field in spec.hashed if field.name != EVENT_TYPE]
        self._numbers = [field for field in spec.fields if field not in spec.hashed]
        self._places: dict[tuple[str | None, ...], int] = {}
        self._kept_KD = np.empty((KEPT, self._model.width), np.float32)
        self._wanted: dict[str | None, Floats] = {}

    def of(self, events: Sequence[StoredEvent]) -> Floats:
        """The vector [T, D] that each event's context adds to the vector of its item."""
        keys = [(e.event_type, *[text_of(e.properties.get(name)) for name in self._features]) for e in events]
        missing = {key for key in keys if key not in self._places}
        if missing:
            self._keep(missing, keys)
        vectors_TD = self._kept_KD.take([self._places[key] for key in keys], 0)
        values = [np.array([number_of(e.properties.get(field.name)) for e in events]) for field in self._numbers]
        parts = [piecewise_linear(values_T, field.edges) for values_T, field in zip(values, self._numbers, strict=True)]
        dense_TF = np.concatenate(parts, 1) if parts else np.zeros((len(events), 0), np.float32)
        return vectors_TD + self._reader.embed_numbers(dense_TF)

    def _keep(self, missing: Set[tuple[str | None, ...]], wanted: Sequence[tuple[str | None, ...]]) -> None:
        """Compute the missing vectors and cache them.

        If the cache has no room for them, it is emptied and gets all vectors of `wanted`, however many these are.
        """
        if len(self._places) + len(missing) > KEPT:
            self._places, missing = {}, set(wanted)
            self._kept_KD = np.empty((max(KEPT, len(missing)), self._model.width), np.float32)
        columns = dict(zip((EVENT_TYPE, *self._features), map(_texts, zip(*missing, strict=True)), strict=True))
        encoded = encode_rows(columns, self._model.context_spec, self._model.context_table_rows)
        start = len(self._places)
        self._kept_KD[start : start + len(missing)] = self._reader.embed_slots(encoded.slots_NS, encoded.weights_NS)
        self._places.update(zip(missing, range(start, start + len(missing)), strict=True))

    def wanted(self, event_type: str | None) -> Floats:
        """The vector [D] that a request's `target_event_type` adds to the hidden state."""
        if event_type not in self._wanted:
            slots, weights = encode_wanted([event_type], self._model.context_spec, self._model.context_table_rows)
            if len(self._wanted) == KEPT:
                self._wanted.clear()
            (self._wanted[event_type],) = self._reader.embed_slots(slots, weights)
        return self._wanted[event_type]


def _texts(values: Iterable[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def text_of(value: Any) -> str | None:
    """The value of a categorical feature; None is a missing value."""
    return None if value is None else str(value)


def number_of(value: Any) -> float:
    """The value of a numeric feature, NaN if it is not a number: a stored event may be older than the schema."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
