"""Names the columns that keep pyarrow from opening a file: integers of 128 bits, as polars writes them.

pyarrow refuses the whole file without a word on the column, so the Arrow schema that is stored in the file's footer is read here:
base64 of a FlatBuffers message (format/Schema.fbs of Arrow), whose tables begin with the offset of a list of field offsets.
"""

import re
import struct
from base64 import b64decode
from pathlib import Path

_SCHEMA_OF_MESSAGE, _FIELDS_OF_SCHEMA = 2, 1
_NAME_OF_FIELD, _KIND_OF_FIELD, _TYPE_OF_FIELD = 0, 2, 3
_WIDTH_OF_INT = 0
_INT = 2  # the kind of a field that is an integer
_MAX_FOOTER = 2**26


def columns_of_wide_integers(file: Path) -> list[str]:
    """Columns with integers of more than 64 bits; none when the footer cannot be understood."""
    with file.open("rb") as opened:
        opened.seek(-min(_MAX_FOOTER, file.stat().st_size), 2)
        stored = re.search(rb"ARROW:schema.{1,8}?([A-Za-z0-9+/]{40,}=*)", opened.read(), re.DOTALL)
    if stored is None:
        return []
    try:
        return _wide(b64decode(stored[1])[8:])  # after a marker and a length
    except (struct.error, ValueError, IndexError):
        return []


def _wide(message: bytes) -> list[str]:
    schema = _follow(message, _field(message, _follow(message, 0), _SCHEMA_OF_MESSAGE))
    fields = _follow(message, _field(message, schema, _FIELDS_OF_SCHEMA))
    names = []
    for number in range(_unsigned(message, fields)):
        field = _follow(message, fields + 4 + 4 * number)
        kind = _field(message, field, _KIND_OF_FIELD)
        if kind and message[kind] == _INT:
            integer = _follow(message, _field(message, field, _TYPE_OF_FIELD))
            if _unsigned(message, _field(message, integer, _WIDTH_OF_INT)) > 64:
                name = _follow(message, _field(message, field, _NAME_OF_FIELD))
                names.append(message[name + 4 : name + 4 + _unsigned(message, name)].decode())
    return names


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 when it is absent."""
    offsets = table - int(struct.unpack_from("<i", message, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", message, offsets)[0]:
        return 0
    offset = int(struct.unpack_from("<H", message, offsets + 4 + 2 * number)[0])
    return table + offset if offset else 0


def _follow(message: bytes, at: int) -> int:
    return at + _unsigned(message, at)


def _unsigned(message: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", message, at)[0])
