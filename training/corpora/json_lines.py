"""Reads JSON lines: one object per line. pyarrow parses blocks of lines, whose types are found in a first pass over the file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson
import pyarrow.types as pt

from training.corpora.column_names import is_id
from training.corpora.text_files import BLOCK_BYTES, open_bytes
from twotower.errors import DataError
from twotower.tables.plain import EXACT

_ROW = re.compile(r" in row (\d+)$")


@dataclass(frozen=True)
class JsonLines:
    """One file of JSON lines."""

    file: Path

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of all lines. DataError for a column that holds values of two kinds, such as numbers and text."""
        types: dict[str, pa.DataType] = {}
        for first_line, block in self._blocks():
            for field in self._parse(first_line, block, None).schema:
                known = types.get(field.name, pa.null())
                if (both := _merged(known, field.type)) is None:
                    last_line = first_line + block.count(b"\n")
                    raise DataError(
                        f"{self.file}: column {field.name!r} holds {_told(known)} and, between lines {first_line:,} and "
                        f"{last_line:,}, {_told(field.type)}; write it alike in all lines"
                    )
                types[field.name] = both
        if not types:
            raise DataError(f"{self.file} holds no records")
        return pa.schema(list(types.items()))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The lines as rows, in the order of the file."""
        schema = self.schema
        for first_line, block in self._blocks():
            table = self._parse(first_line, block, schema)
            for name in (n for n in schema.names if is_id(n) and pt.is_float64(schema.field(n).type)):
                if pc.any(pc.greater(pc.abs(table.column(name)), float(EXACT))).as_py():
                    raise DataError(
                        f"{self.file}: column {name!r} holds numbers beyond 2^53, which JSON readers change: write ids as text"
                    )
            yield from table.to_batches()

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Blocks of whole lines, each with the number of its first line."""
        rest, line = b"", 1
        with open_bytes(self.file) as stream:
            while block := bytes(stream.read(BLOCK_BYTES)):
                whole, end, begun = (rest + block).rpartition(b"\n")
                if whole.strip():
                    yield line, whole + end
                line, rest = line + (whole + end).count(b"\n"), begun
        if rest.strip():
            yield line, rest

    def _parse(self, first_line: int, block: bytes, schema: pa.Schema | None) -> pa.Table:
        if first_line == 1 and block.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            raise DataError(f"{self.file} holds one JSON array; write one object per line: jq -c '.[]' {self.file.name}")
        self._require_utf8(first_line, block)
        options = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer")
        try:
            table = pajson.read_json(pa.BufferReader(block), pajson.ReadOptions(block_size=2 * len(block) + 1), options)
        except pa.ArrowInvalid as error:
            row, message = _ROW.search(str(error)), _ROW.sub("", str(error)).removeprefix("JSON parse error: ").rstrip(".")
            line = first_line + _line_of_row(block, int(row[1]) if row else 0)
            raise DataError(f"{self.file}, line {line}: {message}. Each line must be one JSON object.") from error
        return table if schema is None else table.select(schema.names).cast(schema)

    def _require_utf8(self, first_line: int, block: bytes) -> None:
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line = first_line + block.count(b"\n", 0, error.start)
            raise DataError(f"{self.file}, line {line}: it is not UTF-8, which JSON must be") from error


def _line_of_row(block: bytes, row: int) -> int:
    """The place of the `row`-th line that is not blank."""
    filled = [place for place, line in enumerate(block.split(b"\n")) if line.strip()]
    return filled[min(row, len(filled) - 1)]


def _merged(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type of values of both types. pyarrow takes text that looks like a time for one; here it stays text."""
    a, b = (pa.string() if pt.is_timestamp(kind) else kind for kind in (a, b))
    if pt.is_null(a) or pt.is_null(b):
        return _settled(b if pt.is_null(a) else a)
    if pt.is_list(a) and pt.is_list(b):
        values = _merged(a.value_type, b.value_type)
        return None if values is None else pa.list_(values)
    if pt.is_struct(a) and pt.is_struct(b):
        fields = {field.name: field.type for field in a}
        for field in b:
            both = _merged(fields.get(field.name, pa.null()), field.type)
            if both is None:
                return None
            fields[field.name] = both
        return pa.struct(list(fields.items()))
    if a == b:
        return a
    numbers = all(pt.is_integer(kind) or pt.is_floating(kind) for kind in (a, b))
    return pa.float64() if numbers else None


def _settled(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of times, at any depth."""
    if pt.is_timestamp(kind):
        return pa.string()
    if pt.is_list(kind):
        return pa.list_(_settled(kind.value_type))
    return pa.struct([(field.name, _settled(field.type)) for field in kind]) if pt.is_struct(kind) else kind


def _told(kind: pa.DataType) -> str:
    if pt.is_integer(kind) or pt.is_floating(kind):
        return "numbers"
    if pt.is_string(kind) or pt.is_timestamp(kind):
        return "text"
    return "true and false" if pt.is_boolean(kind) else "lists" if pt.is_list(kind) else "objects"
