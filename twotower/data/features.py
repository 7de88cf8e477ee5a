"""Encodes raw column values into the arrays that the model reads. Pure functions, versioned by `FeatureSpec.version`.

Words, categories and ids become rows of one shared hash table, with k signed hashes each: there is no vocabulary to keep, and
new values work at once. Numbers and times become piecewise-linear encodings.

N: items or events, S: hash slots of one row, F: dense features of one row, B: bins
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from twotower.data.bags import Bags, list_bags, num_tokens_of, text_bags
from twotower.data.words import composed_values
from twotower.errors import DataError
from twotower.tables.iso_times import parse_times
from twotower.tables.plain import as_plain, plain_type

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

VERSION = 2
DAY_MS = 86_400_000
EVENT_TIME_WIDTH, EVENT_ORDER_WIDTH = 6, 2  # the second of each counts the features before hour, weekday and season
REQUEST_TIME_WIDTH, REQUEST_ORDER_WIDTH = 7, 1
# Tokens of a text or list: as many as all but CUT_SHARE of the rows have, within these bounds. The rest is cut.
MIN_TOKENS, MAX_TOKENS, CUT_SHARE = 8, 48, 0.05
_MISSING = "\0missing"  # the token of a missing value


class FieldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One feature column as fitted on the training data."""

    name: str
    kind: str
    edges: tuple[float, ...] = ()  # numeric, time: B + 1 quantiles of the training rows
    dim: int = 0  # vector: its length
    max_tokens: int = 12  # text: words and word pairs; list: values; the rest is cut

    @property
    def dense_width(self) -> int:
        """Number of columns of the dense array that this field fills."""
        match self.kind:
            case "numeric":
                return max(len(self.edges) - 1, 0) + 1
            case "time":
                return max(len(self.edges) - 1, 0) + 3
            case "vector":
                return self.dim + 1
            case _:
                return 0

    def num_slots(self, spec: "FeatureSpec") -> int:
        """Number of hash slots that this field fills."""
        match self.kind:
            case "id":
                return spec.num_id_hashes
            case "categorical":
                return spec.num_hashes
            case "list" | "text":
                return spec.num_hashes * self.max_tokens
            case _:
                return 0


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that turns a raw row into arrays; part of the vector space's identity."""

    fields: tuple[FieldSpec, ...]
    version: int = VERSION
    num_hashes: int = 2  # two signed hashes keep most value pairs apart (Svenstrup et al. 2017)
    num_id_hashes: int = 3

    @property
    def hashed(self) -> tuple[FieldSpec, ...]:
        """Fields that live in the hash table, in slot order."""
        return tuple(f for f in self.fields if f.num_slots(self))

    @property
    def slot_counts(self) -> tuple[int, ...]:
        """Number of slots of each hashed field."""
        return tuple(f.num_slots(self) for f in self.hashed)

    @property
    def dense_width(self) -> int:
        """Width F of the dense features of one row."""
        return sum(f.dense_width for f in self.fields)


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Encoded rows: for every slot a table row and a signed weight, beside the dense features."""

    slots_NS: Rows
    weights_NS: Floats
    dense_NF: Floats

    def __len__(self) -> int:
        return len(self.slots_NS)

    def take(self, index: npt.NDArray[Any] | slice) -> "EncodedRows":
        """The rows at `index`. A slice makes no copy."""
        return EncodedRows(self.slots_NS[index], self.weights_NS[index], self.dense_NF[index])

    @staticmethod
    def none(spec: FeatureSpec) -> "EncodedRows":
        """No rows."""
        slots = (0, sum(spec.slot_counts))
        return EncodedRows(np.zeros(slots, np.int32), np.zeros(slots, np.float32), np.zeros((0, spec.dense_width), np.float32))

    @staticmethod
    def concatenate(parts: Sequence["EncodedRows"]) -> "EncodedRows":
        """All rows of all parts, in order."""
        return EncodedRows(
            np.concatenate([p.slots_NS for p in parts]),
            np.concatenate([p.weights_NS for p in parts]),
            np.concatenate([p.dense_NF for p in parts]),
        )


def fingerprint(field: str, values: pa.Array) -> Hashes:
    """A 64-bit keyed hash of each (field, value); the values are strings.

    This is the permutation of ids that hashing needs: nothing of an id's digits or order survives it, so catalogue
    order cannot leak into the model (ids of one basket are often sorted).
    """
    seed = xxhash.xxh3_64_intdigest(field.encode())
    texts = values.cast(pa.binary()).to_pylist()
    return np.fromiter(map(xxhash.xxh3_64_intdigest, texts, repeat(seed)), np.uint64, len(texts))


def hash_slots(prints: Hashes, num_hashes: int, table_rows: int) -> tuple[Rows, Floats]:
    """`num_hashes` (row, sign) pairs per fingerprint: shapes [..., num_hashes]; rows in [0, table_rows), signs -1 or 1."""
    x = mix64(prints[..., None] + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, num_hashes + 1, dtype=np.uint64))
    rows = ((x >> np.uint64(1)) % np.uint64(table_rows)).astype(np.int32)
    return rows, np.where(x & np.uint64(1), 1.0, -1.0).astype(np.float32)


def mix64(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection in which every output bit depends on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def piecewise_linear(values: npt.NDArray[np.float64], edges: Sequence[float]) -> Floats:
    """Piecewise-linear encoding (Gorishniy et al. 2022, eq. 1) with a missing flag; shape [N, B + 1].

    Values beyond the outer edges saturate, so that a wild value (89,638 litres of fuel) cannot dominate.
    """
    bounds = np.asarray(edges, np.float64)
    missing = ~np.isfinite(values)
    filled = np.where(missing, bounds[0] if len(bounds) else 0.0, values)
    low, width = bounds[:-1], np.diff(bounds)
    parts = np.clip((filled[:, None] - low) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    parts[missing] = 0.0
    return np.concatenate([parts, missing[:, None]], 1).astype(np.float32)


def quantile_edges(values: npt.NDArray[np.float64], num_bins: int = 8) -> tuple[float, ...]:
    """Distinct quantiles of the finite values: the bin edges of `piecewise_linear`; empty when there is nothing to bin."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ()
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, num_bins + 1)))
    return tuple(float(e) for e in edges) if len(edges) > 1 else (float(edges[0]), float(edges[0]) + 1.0)


def fit_field(name: str, kind: str, column: pa.Array) -> FieldSpec:
    """The spec of one column, with bins and dimensions taken from its rows."""
    match kind:
        case "numeric":
            return FieldSpec(name=name, kind=kind, edges=quantile_edges(to_floats(column, name)))
        case "time":
            return FieldSpec(name=name, kind=kind, edges=quantile_edges(to_days(column, name)))
        case "vector":
            return FieldSpec(name=name, kind=kind, dim=_usual_length(as_lists(column, name, pa.float64()), name))
        case "text" | "list":
            return FieldSpec(name=name, kind=kind, max_tokens=_enough_tokens(num_tokens(column, name, kind)))
        case _:
            return FieldSpec(name=name, kind=kind)


def _usual_length(lists: pa.Array, name: str) -> int:
    """The length of most lists; one of another length is missing. DataError when no length is that of more than half."""
    found = pc.value_counts(pc.list_value_length(lists).drop_null())
    if not len(found):
        return 0
    most = int(np.argmax(found.field("counts").to_numpy()))
    if found.field("counts")[most].as_py() * 2 <= pc.sum(found.field("counts")).as_py():
        raise DataError(f"column {name!r}: vectors of {len(found)} different lengths; all must have one length")
    return int(found.field("values")[most].as_py())


def num_tokens(column: pa.Array, name: str, kind: str) -> Ints:
    """Number of tokens of each row of a text or list column; 0 where it is missing."""
    if kind == "list":
        lengths: Ints = pc.list_value_length(as_lists(column, name, pa.string())).fill_null(0).to_numpy(zero_copy_only=False)
        return lengths
    encoded = as_values(column, name).dictionary_encode()
    counts = np.append(num_tokens_of(encoded.dictionary), 0)
    of_rows: Ints = counts[encoded.indices.fill_null(-1).to_numpy()]
    return of_rows


def _enough_tokens(num_tokens_N: Ints) -> int:
    """The number of tokens that all but CUT_SHARE of the rows do not exceed, within its bounds."""
    if not len(num_tokens_N):
        return MIN_TOKENS
    enough = int(np.quantile(num_tokens_N, 1 - CUT_SHARE, method="inverted_cdf"))
    return min(max(enough, MIN_TOKENS), MAX_TOKENS)


def num_cut(column: pa.Array, field: FieldSpec) -> int:
    """Number of rows of a text or list column that have more tokens than are read."""
    return int(np.count_nonzero(num_tokens(column, field.name, field.kind) > field.max_tokens))


def encode_rows(columns: dict[str, pa.Array], spec: FeatureSpec, table_rows: int) -> EncodedRows:
    """Encode N rows given as one array per field of the spec; a field that is absent is missing in every row."""
    num_rows = len(next(iter(columns.values())))
    slots: list[Rows] = []
    weights: list[Floats] = []
    dense: list[Floats] = [np.zeros((num_rows, 0), np.float32)]
    for field in spec.fields:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(num_rows)
        if field.num_slots(spec):
            rows, signs = _encode_hashed(column, field, spec, table_rows)
            slots.append(rows)
            weights.append(signs)
        else:
            dense.append(_encode_dense(column, field))
    if not slots:
        slots, weights = [np.zeros((num_rows, 0), np.int32)], [np.zeros((num_rows, 0), np.float32)]
    return EncodedRows(np.concatenate(slots, 1), np.concatenate(weights, 1), np.concatenate(dense, 1))


def encode_wanted(event_types: Sequence[str | None], spec: FeatureSpec, table_rows: int) -> tuple[Rows, Floats]:
    """Slots and weights [Q, num_hashes] of the event type that each request wants; None stands for any type."""
    field = FieldSpec(name="wanted_event_type", kind="categorical")
    return _encode_hashed(pa.array(event_types, pa.string()), field, spec, table_rows)


def _encode_hashed(column: pa.Array, field: FieldSpec, spec: FeatureSpec, table_rows: int) -> tuple[Rows, Floats]:
    """Slots and weights of one field, [N, num_slots]. Each distinct value is hashed only once."""
    match field.kind:
        case "id":
            return _encode_values(as_values(column, field.name), field.name, spec.num_id_hashes, table_rows)
        case "categorical":
            return _encode_values(composed_values(as_values(column, field.name)), field.name, spec.num_hashes, table_rows)
        case "text":
            bags = _text_bags(as_values(column, field.name).dictionary_encode(), field.max_tokens)
        case _:
            bags = list_bags(as_lists(column, field.name, pa.string()), field.max_tokens)
    return _encode_bags(bags, field.name, spec.num_hashes, table_rows)


def _encode_values(values: pa.Array, name: str, num_hashes: int, table_rows: int) -> tuple[Rows, Floats]:
    """Slots and signs [N, H] of a column of strings."""
    encoded = values.fill_null(_MISSING).dictionary_encode()
    rows_TH, signs_TH = hash_slots(fingerprint(name, encoded.dictionary), num_hashes, table_rows)
    index = encoded.indices.to_numpy()
    return rows_TH.take(index, 0), signs_TH.take(index, 0)


def _text_bags(texts: pa.DictionaryArray, width: int) -> Bags:
    """The tokens of texts. Those of a text that occurs twice are found once, and a missing text has none."""
    bags = text_bags(texts.dictionary, width)
    codes_NW = np.concatenate([bags.codes_NW, np.full((1, width), -1, np.int32)])
    return Bags(bags.distinct, codes_NW.take(texts.indices.fill_null(-1).to_numpy(), 0))


def _encode_bags(bags: Bags, name: str, num_hashes: int, table_rows: int) -> tuple[Rows, Floats]:
    """Slots and weights [N, W * H] of bags of tokens. An empty bag holds the token of a missing value.

    Unused slots are row 0 with weight 0.
    """
    num_read_N = np.count_nonzero(bags.codes_NW >= 0, 1)
    codes_NW = bags.codes_NW.copy()
    codes_NW[num_read_N == 0, 0] = len(bags.distinct)
    prints = fingerprint(name, pa.concat_arrays([bags.distinct, pa.array([_MISSING])]))
    rows_TH, signs_TH = (np.concatenate([x, np.zeros_like(x[:1])]) for x in hash_slots(prints, num_hashes, table_rows))
    scales_N = (np.maximum(num_read_N, 1) ** -0.5).astype(np.float32)
    slots_NWH, weights_NWH = rows_TH.take(codes_NW, 0), signs_TH.take(codes_NW, 0) * scales_N[:, None, None]
    num_rows, width = codes_NW.shape
    return slots_NWH.reshape(num_rows, width * num_hashes), weights_NWH.reshape(num_rows, width * num_hashes)


def as_values(column: pa.Array, name: str) -> pa.Array:
    """The column as strings to hash. Whole floats are written as integers, because tools turn integers with gaps into floats."""
    if pa.types.is_floating(column.type) or (pa.types.is_decimal(column.type) and column.type.scale):
        numbers = to_floats(column, name).tolist()
        texts = [None if math.isnan(x) else str(int(x)) if x.is_integer() else str(x) for x in numbers]
        return pa.array(texts, pa.string())
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {name!r} should hold one value per row but holds {column.type}") from error


def as_lists(column: pa.Array, name: str, values: pa.DataType) -> pa.Array:
    """The column as lists of `values`; DataError when it holds no lists, or lists of something else."""
    plain = plain_type(column.type)
    if plain is None or not (pa.types.is_null(plain) or pa.types.is_list(plain)):
        raise DataError(f"column {name!r} is a list or vector in the schema but holds {column.type}")
    try:
        return as_plain(column, plain).cast(pa.list_(values))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(f"column {name!r} holds {column.type}, which is no list of {values}: {error}") from error


def _encode_dense(column: pa.Array, field: FieldSpec) -> Floats:
    if field.kind == "numeric":
        return piecewise_linear(to_floats(column, field.name), field.edges)
    if field.kind == "time":
        days = to_days(column, field.name)
        year = np.nan_to_num(days) * (2 * np.pi / 365.2425)
        return np.concatenate(
            [piecewise_linear(days, field.edges), (np.stack([np.sin(year), np.cos(year)], 1) * np.isfinite(days)[:, None])], 1
        ).astype(np.float32)
    return _encode_vectors(column, field)


def _encode_vectors(column: pa.Array, field: FieldSpec) -> Floats:
    """Unit-length vectors and a missing flag, [N, dim + 1]; a vector of another length or with a NaN is missing."""
    out = np.zeros((len(column), field.dim + 1), np.float32)
    out[:, -1] = 1.0
    column = as_lists(column, field.name, pa.float64())
    if field.dim:
        right = pc.equal(pc.list_value_length(column), field.dim).fill_null(False).to_numpy(zero_copy_only=False)
        flat = pc.list_flatten(column.filter(pa.array(right))).fill_null(float("nan"))
        vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, field.dim)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        good = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
        out[np.flatnonzero(right)[good], :-1] = vectors[good] / norms[good]
        out[np.flatnonzero(right)[good], -1] = 0.0
    return out


def to_floats(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """The column as float64, NaN where missing; DataError when it holds no numbers. Integers beyond 2^53 are rounded."""
    rounds = pa.types.is_integer(column.type)
    try:
        floats = column.cast(pa.float64(), safe=not rounds).fill_null(float("nan"))
        return floats.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {name!r} is numeric in the schema but holds {column.type}: {error}") from error


def to_days(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """The column as days since the epoch, NaN where missing; DataError when it holds no times."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pa.types.is_string(column.type):
        column = _parsed(column, name)
    try:
        stamps = column.cast(pa.timestamp("ms"), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {name!r} is a time in the schema but holds {column.type}: {error}") from error
    return to_floats(stamps.cast(pa.int64()), name) / DAY_MS


def _parsed(column: pa.Array, name: str) -> pa.Array:
    times = parse_times(pc.if_else(pc.equal(column, ""), None, column))
    if times.null_count > column.null_count:
        for text in column.filter(times.is_null()).cast(pa.binary()).drop_null().to_pylist():
            if text:
                raise DataError(
                    f"column {name!r} is a time in the schema but holds {text.decode(errors='replace')!r}: "
                    f"write timestamps, or text such as 2026-01-05T08:00:00Z"
                )
    return times


def event_time_features(times_ms: Ints) -> Floats:
    """Time features of the events of one history, [L, 6]: gap to the event before, same-time flag, hour, weekday.

    Gaps look back and the first event of a window has none, so the features are a function of the window alone.
    """
    gaps = np.diff(times_ms, prepend=times_ms[:1]) / DAY_MS
    together = (gaps == 0).astype(np.float64)
    together[:1] = 0.0
    return np.stack([np.log1p(np.maximum(gaps, 0)) / 3, together, *_clock(times_ms)], 1).astype(np.float32)


def request_time_features(now_ms: Ints, last_ms: Ints) -> Floats:
    """Time features of requests, [Q, 7]: days since the last event, hour, weekday, season."""
    gaps = np.maximum(now_ms - last_ms, 0) / DAY_MS
    season = (now_ms / DAY_MS) * (2 * np.pi / 365.2425)
    return np.stack([np.log1p(gaps) / 3, *_clock(now_ms), np.sin(season), np.cos(season)], 1).astype(np.float32)


def _clock(times_ms: Ints) -> list[npt.NDArray[np.float64]]:
    days = times_ms / DAY_MS
    hour, week = (days % 1) * (2 * np.pi), (days % 7) * (2 * np.pi / 7)
    return [np.sin(hour), np.cos(hour), np.sin(week), np.cos(week)]


def rows_of(ids: pa.Array, item_ids: pa.Array) -> Ints:
    """Row of each id in `item_ids`, -1 where it is absent."""
    rows = pc.index_in(ids, item_ids).fill_null(-1)
    found: npt.NDArray[np.int64] = rows.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
