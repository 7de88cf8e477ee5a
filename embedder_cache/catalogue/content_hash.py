"""A hash of an item's features. While the hash stays equal, the vector embedded before is still right.

N: items, M: elements of all items
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from twotower.data.features import Hashes, mix64
from twotower.errors import DataError

# Constants of the polynomial. Releases hold hashes made with them, so they may change only together with the file's name.
_BYTES = mix64(np.arange(1, 257, dtype=np.uint64))
_NULL = np.uint64(0x51_7C_C1_B7_27_22_0A_95)


def content_hashes(table: pa.Table) -> Hashes:
    """One 64-bit hash per row [N] over all columns and their names. Equal values of different types may hash differently."""
    total_N = np.zeros(len(table), np.uint64)
    for name in table.column_names:
        seed = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
        total_N += mix64(_hashes(table.column(name).combine_chunks(), name) ^ seed)
    return mix64(total_N)


def _hashes(column: pa.Array, name: str) -> Hashes:
    """One hash per value, [N]. NaN counts as missing, as it does to the embedder."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    if pa.types.is_null(column.type):
        return np.full(len(column), _NULL)
    if not column.null_count:
        return _present(column, name)
    present_N = column.is_valid().to_numpy(zero_copy_only=False)
    hashes_N = np.full(len(column), _NULL)
    hashes_N[present_N] = _present(column.drop_null(), name)
    return hashes_N


def _present(column: pa.Array, name: str) -> Hashes:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        encoded = column.cast(pa.large_binary()).dictionary_encode()
        distinct = encoded.dictionary
        _, offsets, data = distinct.buffers()
        starts = np.frombuffer(offsets, np.int64, len(distinct) + 1, distinct.offset * 8)
        letters_M = np.frombuffer(data or b"", np.uint8)[starts[0] : starts[-1]] if len(distinct) else np.zeros(0, np.uint8)
        hashes: Hashes = _fold(_BYTES[letters_M], np.diff(starts))[encoded.indices.to_numpy(zero_copy_only=False)]
        return hashes
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        return _fold(mix64(_hashes(pc.list_flatten(column), name)), lengths)
    if pa.types.is_boolean(kind):
        return mix64(column.to_numpy(zero_copy_only=False).astype(np.uint64))
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        width = kind.byte_width
        raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
        words = np.zeros((len(column), -(-width // 8) * 8), np.uint8)
        words[:, :width] = raw.reshape(-1, width)
        return _fold(mix64(words.view(np.uint64).ravel()), np.full(len(column), words.shape[1] // 8))
    raise DataError(f"column {name!r} holds {kind}, which is no feature: remove it from schema.toml, or store it as text")


def _fold(values_M: Hashes, lengths_N: npt.NDArray[np.int64]) -> Hashes:
    """Hash of each run of values: the sum of each value times the weight of its position, mixed with the run's length."""
    starts_N = np.cumsum(lengths_N) - lengths_N
    places_M = np.arange(len(values_M)) - np.repeat(starts_N, lengths_N)
    weights = mix64(np.arange(1, int(lengths_N.max(initial=0)) + 1, dtype=np.uint64)) | np.uint64(1)
    sums_N = np.zeros(len(lengths_N), np.uint64)
    filled = lengths_N > 0
    if filled.any():
        sums_N[filled] = np.add.reduceat(values_M * weights[places_M], starts_N[filled])
    return mix64(sums_N + lengths_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
