"""What events are besides their items and times: types and features, turned into vectors.

The model adds up what each feature says. What it looks up in its table is kept, for most events are of few kinds; numbers, of
which no two may be the same, are multiplied anew.

T: events, D: model width
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from service.history import StoredEvent
from service.reader import Reader
from twotower.bundle import Towers
from twotower.features import EncodedRows, Floats, encode_rows, encode_wanted, piecewise_linear
from twotower.schema import EVENT_TYPE

KEPT = 4096  # vectors: half a kB each


class Contexts:
    """Vectors of event contexts of one release, the last used kept. Not thread-safe: the engine's thread alone asks it."""

    def __init__(self, towers: Towers, reader: Reader) -> None:
        self._model, self._reader = towers.config.model, reader
        spec = self._model.context_spec
        self._features = [field.name for field in spec.hashed if field.name != EVENT_TYPE]
        self._numbers = [field for field in spec.fields if field not in spec.hashed]
        self._kept: OrderedDict[tuple[str | None, ...], Floats] = OrderedDict()
        self._wanted: OrderedDict[str | None, Floats] = OrderedDict()

    def of(self, events: Sequence[StoredEvent]) -> Floats:
        """What each event adds to its item, [T, D]."""
        keys = [(e.event_type, *[_text(e.properties.get(name)) for name in self._features]) for e in events]
        found = {key: self._kept.pop(key, None) for key in keys}
        if missing := [key for key, vector_D in found.items() if vector_D is None]:
            columns = dict(zip((EVENT_TYPE, *self._features), map(_texts, zip(*missing, strict=True)), strict=True))
            encoded = encode_rows(columns, self._model.context_spec, self._model.context_table_rows)
            made_MD = self._reader.embed_slots(encoded.slots_NS, encoded.weights_NS)
            found |= {key: made_D.copy() for key, made_D in zip(missing, made_MD, strict=True)}  # a view would keep them all
        vectors_TD = np.array([found[key] for key in keys])
        self._kept |= found  # type: ignore[arg-type] # none is missing any more
        _trim(self._kept)
        values = [np.array([_number(e.properties.get(field.name)) for e in events], np.float64) for field in self._numbers]
        parts = [piecewise_linear(values_T, field.edges) for values_T, field in zip(values, self._numbers, strict=True)]
        return vectors_TD + self._reader.embed_numbers(np.concatenate([np.zeros((len(events), 0), np.float32), *parts], 1))

    def wanted(self, event_type: str | None) -> Floats:
        """What a wanted event type adds to the hidden state, [D]."""
        known = self._wanted.pop(event_type, None)
        if known is None:
            slots, weights = encode_wanted([event_type], self._model.context_spec, self._model.context_table_rows)
            (known,) = self._reader.embed_slots(slots, weights)
        self._wanted[event_type] = known
        _trim(self._wanted)
        return known


def _trim(kept: OrderedDict[Any, Floats]) -> None:
    while len(kept) > KEPT:
        kept.popitem(last=False)


def event_context(towers: Towers, events: Sequence[StoredEvent]) -> EncodedRows:
    """Event types and the event features of the schema, taken from `properties` by name."""
    config = towers.config.model
    columns = {EVENT_TYPE: _texts([e.event_type for e in events])}
    for name, kind in towers.schema.events.features.items():
        values = [e.properties.get(name) for e in events]
        columns[name] = pa.array(map(_number, values), pa.float64()) if kind == "numeric" else _texts(map(_text, values))
    return encode_rows(columns, config.context_spec, config.context_table_rows)


def _texts(values: Iterable[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float:
    """Text where a number belongs is a missing number: stored events outlive schemas and cannot be refused any more."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
