"""What events are besides their items and times: types and features, encoded and kept, for most events are of few kinds.

T: events, D: model width
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from service.history import StoredEvent
from service.reader import Reader
from twotower.bundle import Towers
from twotower.features import EncodedRows, Floats, encode_rows, encode_wanted

KEPT = 4096  # contexts: half a kB each


class Contexts:
    """Vectors of event contexts of one release, the last used kept. Not thread-safe: the engine's thread alone asks it."""

    def __init__(self, towers: Towers, reader: Reader) -> None:
        self._towers, self._reader = towers, reader
        self._names = tuple(towers.schema.events.features)
        self._kept: OrderedDict[Any, Floats] = OrderedDict()
        self._wanted: OrderedDict[str | None, Floats] = OrderedDict()

    def of(self, events: Sequence[StoredEvent]) -> Floats:
        """What each event adds to its item, [T, D]."""
        keys = [(e.event_type, *map(repr, map(e.properties.get, self._names))) for e in events]
        found = {key: self._kept.pop(key, None) for key in keys}
        missing = {key: event for key, event in zip(keys, events, strict=True) if found[key] is None}
        if missing:
            made_TD = self._reader.embed_contexts(event_context(self._towers, list(missing.values())))
            found |= {key: made_D.copy() for key, made_D in zip(missing, made_TD, strict=True)}  # a view would keep them all
        vectors_TD = np.array([found[key] for key in keys])
        self._kept |= found  # type: ignore[arg-type] # none is missing any more
        _trim(self._kept)
        return vectors_TD

    def wanted(self, event_type: str | None) -> Floats:
        """What a wanted event type adds to the hidden state, [D]."""
        known = self._wanted.pop(event_type, None)
        if known is None:
            model = self._towers.config.model
            slots, weights = encode_wanted([event_type], model.context_spec, model.context_table_rows)
            (known,) = self._reader.embed_wanted(slots, weights)
        self._wanted[event_type] = known
        _trim(self._wanted)
        return known


def _trim(kept: OrderedDict[Any, Floats]) -> None:
    while len(kept) > KEPT:
        kept.popitem(last=False)


def event_context(towers: Towers, events: Sequence[StoredEvent]) -> EncodedRows:
    """Event types and the event features of the schema, taken from `properties` by name."""
    config = towers.config.model
    columns = {"event_type": pa.array([e.event_type for e in events], pa.string())}
    for name, kind in towers.schema.events.features.items():
        values = [e.properties.get(name) for e in events]
        if kind == "numeric":
            columns[name] = pa.array([_number(v) for v in values], pa.float64())
        else:
            columns[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
    return encode_rows(columns, config.context_spec, config.context_table_rows)


def _number(value: Any) -> float | None:
    """Text where a number belongs is a missing number: stored events outlive schemas and cannot be refused any more."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
