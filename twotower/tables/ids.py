"""Ids as text, and texts that are not UTF-8: the same rules for events, items and signals.

B: rows of a batch
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from twotower.errors import DataError
from twotower.tables.left_out import LeftOut
from twotower.tables.plain import is_whole, no_whole_number, whole_texts

MAX_ID_BYTES = 128
MISSING_ID = "is missing"
_WAY_OUT = f"ids are text or whole numbers, up to {MAX_ID_BYTES} bytes long"
Mask = npt.NDArray[np.bool_]


def read_ids(column: pa.Array, name: str) -> tuple[pa.Array, list[tuple[str, Mask]]]:
    """The ids as text, empty where there is none, and each fault with its rows [B]. DataError for a column of lists.

    Integers and whole floats (as tools write integers with gaps) are ids.
    """
    faults: list[tuple[str, Mask]] = []
    if pt.is_floating(column.type):
        whole = is_whole(column).fill_null(True)
        _note(faults, no_whole_number(column.type), ~whole.to_numpy(zero_copy_only=False))
        texts = whole_texts(pc.if_else(whole, column, None))
    else:
        texts = _texts(column, name)
    texts = texts.fill_null("")
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest > MAX_ID_BYTES:
        long_B = pc.greater(pc.binary_length(texts), MAX_ID_BYTES)
        _note(faults, f"is longer than {MAX_ID_BYTES} bytes", long_B.to_numpy(zero_copy_only=False))
    if not pt.is_integer(column.type):
        _note(faults, "is not UTF-8", undecodable(texts))
    for _, faulty_B in faults:
        texts = pc.if_else(pa.array(faulty_B), "", texts)
    return texts, faults


def sound_ids(column: pa.Array, name: str, left_out: LeftOut, need_none: pa.Array | None = None) -> pa.Array:
    """The ids as text, empty where there is none or a faulty one; these are counted, except in rows that need none."""
    texts, faults = read_ids(column, name)
    missing_B = pc.equal(texts, "") if need_none is None else pc.and_(pc.equal(texts, ""), pc.invert(need_none))
    missing = pc.sum(missing_B).as_py() or 0
    for fault, faulty_B in faults:
        missing -= int(faulty_B.sum())
        example = id_texts(column.filter(pa.array(faulty_B)).slice(0, 1))[0]
        left_out.add(name, f"the id in column {name!r} {fault}", int(faulty_B.sum()), _short(example or ""), _WAY_OUT)
    left_out.add(name, f"the id in column {name!r} {MISSING_ID}", missing)
    return texts


def ids(column: pa.Array, name: str) -> pa.Array:
    """The ids as text, empty where there is none. DataError for a faulty one."""
    texts, faults = read_ids(column, name)
    for fault, faulty_B in faults:
        example = id_texts(column.filter(pa.array(faulty_B)).slice(0, 1))[0]
        raise DataError(f"column {name!r} holds an id that {fault}: {_short(example or '')}")
    return texts


def id_texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Ids for messages, whatever they hold: bytes that are not UTF-8 are replaced."""
    values = (column.cast(pa.large_binary()) if pt.is_string(column.type) else column).to_pylist()
    return [v.decode(errors="replace") if isinstance(v, bytes) else None if v is None else str(v) for v in values]


def _texts(column: pa.Array, name: str) -> pa.Array:
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {name!r} holds {column.type}: ids are text or whole numbers") from error


def _note(faults: list[tuple[str, Mask]], fault: str, faulty_B: Mask) -> None:
    if faulty_B.any():
        faults.append((fault, faulty_B))


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "...")


def undecodable(column: pa.Array) -> Mask:
    """Which rows hold bytes that are not UTF-8, in their text or in a text of their list; [B]."""
    faulty_B = np.zeros(len(column), bool)
    if pt.is_list(column.type) or pt.is_large_list(column.type):
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        faulty_B[parents[undecodable(pc.list_flatten(column))]] = True
    elif pt.is_string(column.type) or pt.is_large_string(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            values = column.cast(pa.large_binary()).to_pylist()
            faulty_B[:] = [value is not None and not _decodes(value) for value in values]
    return faulty_B


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
