"""Your own files as Parquet: CSV, TSV, JSON lines, RecBole's atomic files, MovieLens's `::`, and the nested export of GA4.

Files are read as streams, twice where types are decided by all values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.corpora.column_types import Kind, column_name, convert, decide_kinds, type_in_words
from training.corpora.ga4 import Flattened, is_ga4
from training.corpora.json_lines import JsonLines
from training.corpora.text_files import TextFile, TextOptions, first_bytes, open_text, uncompressed_name
from twotower.artefacts.manifest import staging
from twotower.errors import DataError

PARQUET_ROWS = 131_072
_OTHER = {b"PK\x03\x04": "a zip or Excel file: unpack it, or save it as CSV", b"SQLite": "an SQLite file: export it as CSV"}


@dataclass(frozen=True)
class ParquetRows:
    """One Parquet file, passed on as it is, or flattened when it is an export of GA4."""

    file: Path

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return pq.read_schema(self.file)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its rows."""
        with pq.ParquetFile(self.file) as opened:
            yield from opened.iter_batches(PARQUET_ROWS)


Source = TextFile | JsonLines | ParquetRows


@dataclass(slots=True)
class Written:
    """What was written to one file: for the terminal."""

    file: str
    num_rows: int = 0
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The columns with what they hold, and what was left out."""
        return [f"{self.file}: {self.num_rows:,} rows: {', '.join(self.columns)}", *self.notes]


def prepare(
    events: Sequence[Path], items: Sequence[Path], out: Path, event_options: TextOptions, item_options: TextOptions
) -> list[Written]:
    """Write events.parquet and items.parquet into `out`. DataError names the file, and the line if there is one."""
    targets = {(out / f"{name}.parquet").resolve() for name in ("events", "items")}
    if inputs := [file for file in (*_files(events), *_files(items)) if file.resolve() in targets]:
        raise DataError(f"{inputs[0]} would be replaced by the result: give another directory with --out")
    sources = {"events": [open_source(f, event_options) for f in _files(events)]}
    sources["items"] = [open_source(f, item_options) for f in _files(items)]
    flattened = Flattened() if any(not isinstance(s, TextFile) and is_ga4(s.schema) for s in sources["events"]) else None
    if flattened is None and not items:
        raise DataError("give the catalogue with --items: only the nested export of GA4 tells of items in its events")
    with staging(out.parent) as directory:
        if flattened is not None:
            batches = flattened.events(batch for source in sources["events"] for batch in source.batches())
            written = [_write(batches, directory / "events.parquet")]
            written[0].notes.append(
                f"{flattened.without_items:,} of {flattened.num_events:,} events name no item and are left out"
            )
        else:
            written = [_convert(sources["events"], "events", directory)]
        if flattened is not None and not items:
            if flattened.items is None or not len(flattened.items):
                raise DataError(f"{events[0]}: none of its events names an item with an item_id")
            written.append(_write(iter(flattened.items.to_batches()), directory / "items.parquet"))
        else:
            written.append(_convert(sources["items"], "items", directory))
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(directory.iterdir()):
            file.replace(out / file.name)
    return written


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, and those of the directories among them, in the order of their names."""
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith((".", "_")))
            if not inside:
                raise DataError(f"{path} holds no files")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise DataError(f"{path} does not exist")


def open_source(file: Path, options: TextOptions) -> Source:
    """Find out what a file is, from its first bytes."""
    start = first_bytes(file)
    if start.startswith(b"PAR1"):
        return ParquetRows(file)
    for magic, what in _OTHER.items():
        if start.startswith(magic):
            raise DataError(f"{file} is {what}")
    if b"\0" in start[:4096] and not options.encoding and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is no text: give CSV, TSV, JSON lines, RecBole's or MovieLens's files, or Parquet")
    looks_like_json = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    if looks_like_json or uncompressed_name(file).endswith((".json", ".jsonl", ".ndjson")):
        return JsonLines(file)
    return open_text(file, options)


def _convert(sources: list[Source], what: str, directory: Path) -> Written:
    """Write all sources of one kind into one file, their columns of text converted to the types that all values allow."""
    comma = all(isinstance(source, TextFile) and source.delimiter == ";" for source in sources)
    typed = {name for source in sources if isinstance(source, ParquetRows) for name in source.schema.names}
    told = decide_kinds((b for s in sources if not isinstance(s, ParquetRows) for b in s.batches()), what, comma)
    kinds = {name: kind for name, kind in told.items() if name not in typed}
    types = _types(sources)
    names = {name: column_name(name, types) for name in types if name.strip()}  # pandas writes its index without a name
    schema = pa.schema([(names[n], kinds[n].type if n in kinds else types[n]) for n in names])
    written = _write(_converted(sources, schema, names, kinds), directory / f"{what}.parquet", schema)
    written.columns = [
        f"{short} {kinds[name].told if name in kinds else type_in_words(types[name])}" for name, short in names.items()
    ]
    written.notes += ["a column without a name is left out"] * (len(names) < len(types))
    for source in sources:
        if isinstance(source, TextFile) and source.num_bad[0]:
            line = source.line_of(source.bad_lines[0])
            written.notes.append(
                f"{source.num_bad[0]:,} line{'s' * (source.num_bad[0] > 1)} of {source.file} left out: "
                f"another number of fields (such as line {line})"
            )
    return written


def _types(sources: list[Source]) -> dict[str, pa.DataType]:
    """The columns of all sources. DataError for one that holds text in one file and something else in another."""
    types: dict[str, pa.DataType] = {}
    first: dict[str, Path] = {}
    for source in sources:
        schema = pa.schema([(n, pa.string()) for n in source.names]) if isinstance(source, TextFile) else source.schema
        for column in schema:
            known = types.setdefault(column.name, column.type)
            before = first.setdefault(column.name, source.file)
            if known == column.type or pa.types.is_null(column.type):
                continue
            try:
                promoted = pa.unify_schemas(
                    [pa.schema([("x", known)]), pa.schema([("x", column.type)])], promote_options="permissive"
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(f"column {column.name!r} holds {known} in {before} and {column.type} in {source.file}") from error
            types[column.name] = promoted.field(0).type
    return types


def _converted(
    sources: list[Source], schema: pa.Schema, names: dict[str, str], kinds: dict[str, Kind]
) -> Iterator[pa.RecordBatch]:
    for source in sources:
        for batch in source.batches():
            columns = []
            for name, short in names.items():
                target = schema.field(short).type
                if name not in batch.schema.names:
                    columns.append(pa.nulls(len(batch), target))
                    continue
                try:
                    column = batch.column(name)
                    columns.append(convert(column, kinds[name]) if name in kinds else column.cast(target))
                except pa.ArrowInvalid as error:
                    raise DataError(f"{source.file}: column {name!r}: {' '.join(str(error).split())}") from error
            yield pa.record_batch(columns, schema=schema)


def _write(batches: Iterator[pa.RecordBatch], path: Path, schema: pa.Schema | None = None) -> Written:
    """Write the batches, the first of which has all columns unless a schema is given."""
    written = Written(path.name)
    writer = pq.ParquetWriter(path, schema) if schema is not None else None
    try:
        for batch in batches:
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_batch(batch)
            written.num_rows += len(batch)
            written.columns = written.columns or [f"{column.name} {type_in_words(column.type)}" for column in batch.schema]
    finally:
        if writer is not None:
            writer.close()
    if not written.num_rows:
        raise DataError(f"there is not one row for {path.name}")
    return written
