"""The one opening of events, items and signals: a Parquet file, or a directory of them, as one table of plain columns.

    table = open_table(path, "events")         # reads the footers of all files, and no rows
    table.schema                               # the columns that can be read, in plain types (see `plain`)
    table.left_out                             # column -> why it cannot be read, types of files that do not fit included
    table.other_files                          # files of the directory that are no Parquet
    table.num_rows
    table.require(["user_id", "price"])        # DataError for a column that is absent or cannot be read
    for batch in table.batches(names, rows):   # pa.RecordBatch of plain arrays, never empty, in the order of files and rows
    table.head(names, rows)                    # the first rows, as a pa.RecordBatch
    table.column(name)                         # a whole column, as a pa.Array

Every stage reads through it, so that what `validate` sees is what `train` and `embed` see.

- The type of a column is that of all files together: a column that a file lacks is missing there, integers widen, integers and
  floats are float64, text and whole numbers are text, timestamps of all units and zones are instants. What would lose
  something (a timestamp in one file, an integer in another) is an error that names both files, once the column is asked for.
- Folders `name=value` (Hive partitions) are columns: whole numbers, dates, else text.
- Files and folders that begin with `_` or `.` are passed over. Files that are no Parquet are left out.
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs

from twotower.errors import DataError
from twotower.tables.arrow_schema import columns_of_wide_integers
from twotower.tables.plain import as_plain, is_number, plain_type, unified_type

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # the folder of rows whose value is missing, to Hive, Spark, duckdb and pyarrow
OPEN_AT_ONCE = 16
PARQUET = ds.ParquetFileFormat(coerce_int96_timestamp_unit="us")  # old times of Spark: nanoseconds end in the year 2262
# By a path inside the directory. Their files also hold rows that were replaced or deleted.
TABLE_FORMATS = {"_delta_log": "a Delta Lake table", ".hoodie": "a Hudi table", "metadata/*.metadata.json": "an Iceberg table"}
_WHOLE, _DATE = re.compile(r"-?(0|[1-9]\d{0,17})"), re.compile(r"\d{4}-\d\d-\d\d")
_STARTS = {b"PK\x03\x04": "a zip or Excel file", b"\x1f\x8b": "a gzip file", b"ARRO": "an Arrow file", b"ORC": "an ORC file"}
_STARTS |= {
    b"Obj\x01": "an Avro file",
    b"SQLi": "an SQLite file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PARE": "encrypted Parquet",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a table."""

    file: Path
    num_rows: int
    types: dict[str, pa.DataType]  # of the columns that occur once
    repeated: frozenset[str]
    folder: dict[str, str | None]  # columns that the folders around the file tell

    @property
    def fragment(self) -> ds.ParquetFileFragment:
        """The file, opened anew, because the footers of all files together may be large."""
        return PARQUET.make_fragment(str(self.file), fs.LocalFileSystem())


@dataclass(frozen=True)
class Table:
    """Parquet files that are read as one; see the module."""

    path: Path
    what: str  # events, items or signals, for messages
    parts: tuple[Part, ...]
    schema: pa.Schema
    left_out: dict[str, str]
    text_and_numbers: frozenset[str]  # columns that are text in some files and numbers in others
    other_files: tuple[str, ...]

    @cached_property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(part.num_rows for part in self.parts)

    def require(self, names: Sequence[str]) -> None:
        """DataError when one of the columns is absent, or cannot be read."""
        for name in names:
            if name in self.left_out:
                raise DataError(f"{self.path}: column {name!r} cannot be read: {self.left_out[name]}")
        if missing := [n for n in names if n not in self.schema.names]:
            raise DataError(
                f"{self.path} has no column {', '.join(map(repr, missing))}; it has {', '.join(self.schema.names)}. "
                f"Correct the names in schema.toml, or the file."
            )

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of up to `rows` rows with these columns; DataError names a damaged file, or a value that cannot be read."""
        return (batch for _, batch in self.batches_by_part(names, rows))

    def batches_by_part(self, names: Sequence[str], rows: int) -> Iterator[tuple[Part, pa.RecordBatch]]:
        """The batches, each with the file that it is of."""
        return ((part, batch) for part in self.parts for batch in self.batches_of(part, names, rows))

    def batches_of(self, part: Part, names: Sequence[str], rows: int, row_group: int | None = None) -> Iterator[pa.RecordBatch]:
        """The batches of one file, or of one of its row groups."""
        self.require(names)
        stored = [name for name in dict.fromkeys(names) if name in part.types]
        fragment = part.fragment if row_group is None else part.fragment.subset(row_group_ids=[row_group])
        try:
            for batch in fragment.to_batches(columns=stored, batch_size=rows, batch_readahead=1, fragment_readahead=1):
                if batch.num_rows:
                    yield pa.record_batch([self._plain(part, batch, name) for name in names], names=list(names))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{part.file} cannot be read: {_line(error)}. Is the file whole?") from error

    def head(self, names: Sequence[str], rows: int) -> pa.RecordBatch:
        """The first `rows` rows, or all if there are fewer."""
        self.require(names)
        schema = pa.schema([self.schema.field(name) for name in names])
        table = pa.Table.from_batches([], schema)
        for batch in self.batches(names, rows):
            table = pa.concat_tables([table, pa.Table.from_batches([batch])])
            if len(table) >= rows:
                break
        return pa.record_batch([c.combine_chunks() for c in table.slice(0, rows).columns], names=list(names))

    def column(self, name: str) -> pa.Array:
        """A whole column."""
        self.require([name])
        parts = [batch.column(0) for batch in self.batches([name], 2**17)]
        return pa.chunked_array(parts, self.schema.field(name).type).combine_chunks()

    def _plain(self, part: Part, batch: pa.RecordBatch, name: str) -> pa.Array:
        target = self.schema.field(name).type
        if name in part.types:
            column = batch.column(name)
            try:
                declared = part.types[name]
                uuid = isinstance(declared, pa.UuidType) and not isinstance(column.type, pa.UuidType)
                plain = as_plain(declared.wrap_array(column) if uuid else column, target)
                return _as_in_numbers(plain) if name in self.text_and_numbers else plain
            except DataError as error:
                mine = (plain_type(part.types[name]), pa.null())
                others = (p.file for p in self.parts if plain_type(p.types.get(name, pa.null())) not in mine)
                file = next(others, self.path)
                raise DataError(f"{part.file}: column {name!r}, which is of another type in {file}: {error}") from error
        return _repeat(part.folder.get(name), target, len(batch))


def open_table(path: Path, what: str) -> Table:
    """The table at `path`, which holds the `what` ("events", "items", "signals"). DataError when it is none, and why."""
    if not path.exists():
        raise DataError(f"{path} does not exist: give the Parquet file (or a directory of them) that holds the {what}")
    files, others = (_parquet_files(path, what)) if path.is_dir() else ([path], {})
    if not path.is_dir() and (kind := _not_parquet(path)):
        raise DataError(f"{path} is {kind}")
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
        parts = tuple(pool.map(lambda file: _open(file, path), files))
    schema, left_out = _unify(parts)
    return Table(
        path,
        what,
        parts,
        schema,
        left_out,
        _text_and_numbers(parts, schema),
        tuple(str(other.relative_to(path)) for other in others),
    )


def _parquet_files(path: Path, what: str) -> tuple[list[Path], dict[Path, str]]:
    """The Parquet files of a directory, sorted, and each other file with what it is."""
    for marker, kind in TABLE_FORMATS.items():
        if any(path.glob(marker)):
            raise DataError(f"{path} is {kind}, whose files also hold replaced and deleted rows: export it as plain Parquet")
    files, others = [], {}
    for folder, folders, names in os.walk(path, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in names:
            file = Path(folder) / name
            if _is_hidden(name) or not file.is_file():
                continue
            if kind := _not_parquet(file):
                others[file] = kind
            else:
                files.append(file)
    if not files:
        file, kind = next(iter(sorted(others.items())), (path, ""))
        raise DataError(f"{path} holds no Parquet files" + (f": {file.name} is {kind}" if kind else f" with the {what}"))
    return sorted(files, key=lambda file: file.parts), dict(sorted(others.items()))


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _not_parquet(file: Path) -> str:
    """What a file is that is no Parquet, or nothing. DataError for a file that should be Parquet and is damaged."""
    try:
        with file.open("rb") as opened:
            start = opened.read(4096)
            opened.seek(max(file.stat().st_size - 4, 0))
            end = opened.read(4)
    except OSError as error:
        _refuse(error)
    if start.startswith(b"PAR1") and end == b"PAR1" and file.stat().st_size > len(b"PAR1PAR1"):
        return ""
    if start.startswith(b"PAR1") or (not start and file.suffix in (".parquet", ".pq")):
        raise DataError(f"{file} is cut off: it is {file.stat().st_size:,} bytes of a Parquet file. Write it again.")
    for first, kind in _STARTS.items():
        if start.startswith(first):
            return f"{kind}, not Parquet: write it as Parquet"
    if b"\0" in start:
        return "no Parquet file: write it as Parquet"
    return "text, not Parquet: `twotower prepare files` converts CSV and JSON lines" if start else "an empty file, not Parquet"


def _open(file: Path, root: Path) -> Part:
    try:
        fragment = PARQUET.make_fragment(str(file), fs.LocalFileSystem())
        schema, stored, num_rows = fragment.physical_schema, fragment.metadata.schema, fragment.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        wide = columns_of_wide_integers(file)
        why = f"column {', '.join(map(repr, wide))} holds integers of 128 bits; write Int64 or text" if wide else _line(error)
        raise DataError(f"{file} cannot be read as Parquet: {why}") from error
    uuids = {c.path for c in (stored.column(i) for i in range(len(stored))) if c.logical_type.type == "UUID"}
    repeated = frozenset(name for name in schema.names if schema.names.count(name) > 1)
    types = {f.name: pa.uuid() if f.name in uuids else f.type for f in schema if f.name not in repeated}
    folders = [name.partition("=") for name in file.relative_to(root).parts[:-1] if "=" in name]
    folder = {unquote(name): None if value == NO_VALUE else unquote(value) for name, _, value in folders}
    return Part(file, num_rows, types, repeated, folder)


def _unify(parts: Sequence[Part]) -> tuple[pa.Schema, dict[str, str]]:
    """The type of each column over all files, and why each other column cannot be read."""
    folders = {name: None for part in parts for name in part.folder}
    told = {name: _folder_type({v for p in parts if (v := p.folder.get(name)) is not None}) for name in folders}
    types: dict[str, pa.DataType] = {}
    first: dict[str, Part] = {}  # the file that gave a column its type
    left_out: dict[str, str] = {}
    for part in parts:
        left_out |= dict.fromkeys(part.repeated, f"{part.file} has two columns of this name")
        for name, kind in {**part.types, **{n: k for n, k in told.items() if n in part.folder and n not in part.types}}.items():
            plain = plain_type(kind)
            if name in left_out:
                continue
            if plain is None:
                left_out[name] = f"it holds {kind}; store its parts as columns of their own"
                continue
            known = types.get(name, pa.null())
            both = unified_type(known, plain)
            if both is None:
                left_out[name] = f"it holds {known} in {first[name].file} and {plain} in {part.file}; store it alike in all files"
            elif name not in types or both != known:
                types[name], first[name] = both, part
    return pa.schema([(name, kind) for name, kind in types.items() if name not in left_out]), left_out


def _text_and_numbers(parts: Sequence[Part], schema: pa.Schema) -> frozenset[str]:
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return frozenset(name for name in texts for part in parts if is_number(plain_type(part.types.get(name, pa.null()))))


def _as_in_numbers(texts: pa.Array) -> pa.Array:
    """The texts, unless one has leading zeros, which the numbers of other files cannot have."""
    padded = texts.filter(pc.match_substring_regex(texts, r"^0\d+$").fill_null(False))
    if len(padded):
        raise DataError(f"the text {padded[0].as_py()!r} would not be equal to the number there; write text in all files")
    return texts


def _folder_type(values: set[str]) -> pa.DataType:
    if values and all(_WHOLE.fullmatch(value) for value in values):
        return pa.int64()
    return pa.date32() if values and all(_is_date(value) for value in values) else pa.string()


def _is_date(value: str) -> bool:
    try:
        return bool(_DATE.fullmatch(value) and date.fromisoformat(value))
    except ValueError:
        return False


def _repeat(value: str | None, target: pa.DataType, rows: int) -> pa.Array:
    """`rows` times what a folder says."""
    if value is None:
        return pa.nulls(rows, target)
    if pa.types.is_date(target) or pa.types.is_timestamp(target):
        return as_plain(pa.repeat(pa.scalar(date.fromisoformat(value)), rows), target)
    if pa.types.is_string(target):
        return pa.repeat(pa.scalar(value), rows)
    return as_plain(pa.repeat(pa.scalar(int(value), pa.int64()), rows), target)


def _line(error: BaseException) -> str:
    """The message of Arrow, which may have several lines, as one."""
    return " ".join(str(error).split()).rstrip(".")
