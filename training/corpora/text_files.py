"""Reads delimited text: CSV, TSV, RecBole's atomic files, MovieLens's `::`. All values are text here; see `column_types`.

pyarrow parses the files as streams. What it cannot read, and what it would read wrongly without a word, is an error of one line
with the number of the line.
"""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from twotower.errors import DataError

BLOCK_BYTES = 16 * 2**20  # also the longest record
NO_VALUE = ("", "NULL", "null", "\\N")  # spellings of a missing value; the last one is that of MySQL, Hive and PostgreSQL
PAIR = "::"  # MovieLens separates fields by it
_NEVER = "\x01"  # a delimiter that text does not hold: the file is read by lines
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BACKSLASH_QUOTE = re.compile(rb'\\"[^,;|\t\r\n]')  # a quotation mark inside of a value, as Spark and MySQL write it
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
# Files that have no header: name -> columns. MovieLens 1M and 10M, MovieLens 100k.
_HEADERLESS = {
    "ratings.dat": ("user_id", "item_id", "rating", "timestamp"),
    "movies.dat": ("item_id", "title", "genres"),
    "u.data": ("user_id", "item_id", "rating", "timestamp"),
}


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What the caller said about the files; None is found out."""

    delimiter: str | None = None
    encoding: str | None = None
    columns: tuple[str, ...] | None = None  # names of the columns of files without a header
    skip_bad_lines: bool = False


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file, and how it is read."""

    file: Path
    names: tuple[str, ...]
    header_lines: int
    delimiter: str
    encoding: str
    escape: str | None
    quotes: bool
    skip_bad_lines: bool
    bad_lines: list[str] = field(default_factory=list)  # texts of the first lines that were left out
    num_bad: list[int] = field(default_factory=lambda: [0])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The records as columns of text, in the order of the file. DataError names the file and the line."""
        self.num_bad[0] = 0
        self.bad_lines.clear()
        lines = self.delimiter == PAIR
        names = ["line"] if lines else list(self.names)
        reading = pacsv.ReadOptions(
            column_names=names, skip_rows=self.header_lines, block_size=BLOCK_BYTES, encoding=self.encoding, use_threads=False
        )
        parsing = pacsv.ParseOptions(
            delimiter=_NEVER if lines else self.delimiter,
            quote_char='"' if self.quotes and not lines else False,
            escape_char=self.escape or False,
            newlines_in_values=self.quotes and not lines,
            invalid_row_handler=self._bad,
        )
        converting = pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=list(NO_VALUE),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        last = None
        try:
            with open_bytes(self.file) as stream:
                for batch in pacsv.open_csv(stream, reading, parsing, converting):
                    if batch.num_rows:
                        last = batch
                        yield self._split(batch) if lines else batch
        except (pa.ArrowException, UnicodeError, OSError) as error:
            if "Empty CSV file" not in str(error):  # there is nothing below the header
                raise self._explained(error) from error
        if self.quotes and last is not None:
            self._refuse_open_quote(last)

    def _bad(self, row: pacsv.InvalidRow) -> str:
        self.num_bad[0] += 1
        if len(self.bad_lines) < 3:
            self.bad_lines.append(row.text)
        return "skip" if self.skip_bad_lines else "error"

    def _split(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Columns of a batch of lines."""
        parts = pc.split_pattern(batch.column(0).fill_null(""), PAIR)
        right = pc.equal(pc.list_value_length(parts), len(self.names))
        wrong = batch.column(0).filter(pc.invert(right)).to_pylist()
        self.num_bad[0] += len(wrong)
        self.bad_lines.extend(wrong[: 3 - len(self.bad_lines)])
        if wrong and not self.skip_bad_lines:
            raise self._bad_line(wrong[0] or "")
        parts = parts.filter(right)
        columns = [pc.list_element(parts, place) for place in range(len(self.names))]
        missing = pa.array(NO_VALUE)
        return pa.record_batch([pc.if_else(pc.is_in(c, missing), None, c) for c in columns], names=list(self.names))

    def _explained(self, error: Exception) -> DataError:
        if self.bad_lines:
            return self._bad_line(self.bad_lines[0])
        if isinstance(error, UnicodeError) or "UTF8" in str(error):
            return _undecodable(self.file, self.encoding)
        return DataError(f"{self.file} cannot be read: {' '.join(str(error).split())}")

    def _bad_line(self, text: str) -> DataError:
        where = f"{self.file}, line {self.line_of(text)}"
        if "\n" in text.strip():
            return DataError(f"{where}: a quotation mark is opened there, and the lines below do not fit: is it never closed?")
        return DataError(
            f"{where}: it has not {len(self.names)} fields separated by {self.delimiter!r} "
            f"as the first line has. Correct it, say --delimiter, or leave such lines out with --skip-bad-lines."
        )

    def line_of(self, text: str) -> int:
        """Number of the first line that reads so."""
        wanted = text.splitlines()[0] if text else ""
        return next((n for n, line in enumerate(read_lines(self.file, self.encoding), 1) if line == wanted), 0)

    def _refuse_open_quote(self, last: pa.RecordBatch) -> None:
        """DataError when the last record has swallowed the rest of the file, because a quotation mark in it is never closed."""
        swallowed = sum((value or "").rstrip("\n").count("\n") for value in last.slice(last.num_rows - 1).to_pylist()[0].values())
        if not swallowed:
            return
        num_lines = num_quotes = 0
        for line in read_lines(self.file, self.encoding):
            num_lines += 1
            num_quotes += line.count('"') - (line.count('\\"') if self.escape else 0)
        if num_quotes % 2:
            raise DataError(
                f"{self.file}, line {max(num_lines - swallowed, 1)}: a quotation mark is opened and never closed, so that the "
                f"lines below would be one value. Correct it (a quotation mark inside a value is written twice)."
            )


def open_text(file: Path, options: TextOptions) -> TextFile:
    """Find out how a file is to be read, from its name and its first lines."""
    start = first_bytes(file)
    encoding = options.encoding or next((name for bom, name in _BOMS.items() if start.startswith(bom)), "utf-8")
    name = uncompressed_name(file)
    known = _HEADERLESS.get(name)
    if known and not options.encoding and not _decodes(file):
        encoding = "latin-1"  # as MovieLens says of its files
    lines = list(itertools.islice(read_lines(file, encoding), 50))
    header = next((number for number, line in enumerate(lines) if line.strip()), None)
    if header is None:
        raise DataError(f"{file} is empty")
    delimiter = _delimiter(file, name, lines[header], options.delimiter)
    quotes = not name.endswith((".inter", ".item", ".user", ".dat"))
    names = options.columns or known
    cells = _cells(lines[header], delimiter, quotes)
    if names is None:
        names = tuple(cell.strip() for cell in cells)
        _check_header(file, header + 1, names)
    elif len(names) != len(cells):
        raise DataError(
            f"{file}, line {header + 1}: {len(cells)} fields separated by {delimiter!r}, but {len(names)} names of columns"
        )
    return TextFile(
        file=file,
        names=names,
        header_lines=header + 1 if names is not options.columns and names is not known else 0,
        delimiter=delimiter,
        encoding=encoding,
        escape="\\" if quotes and _BACKSLASH_QUOTE.search(start) else None,
        quotes=quotes,
        skip_bad_lines=options.skip_bad_lines,
    )


def _delimiter(file: Path, name: str, line: str, given: str | None) -> str:
    if given is not None:
        return given
    if PAIR in line:
        return PAIR
    if name.endswith((".tsv", ".inter", ".item", ".user", ".data")):
        return "\t"
    outside = re.sub(r'"[^"]*"', "", line)
    counts = {candidate: outside.count(candidate) for candidate in ("\t", ";", ",", "|")}
    best = max(counts, key=lambda candidate: counts[candidate])
    if not counts[best]:
        raise DataError(
            f"{file}: its first line has one field only ({line[:80]!r}); say how fields are separated with --delimiter"
        )
    return best


def _cells(line: str, delimiter: str, quotes: bool) -> list[str]:
    if delimiter == PAIR or not quotes:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter))


def _check_header(file: Path, line: int, names: tuple[str, ...]) -> None:
    if any(_NUMBER.fullmatch(name) for name in names):
        raise DataError(
            f"{file}, line {line}: it looks like data, not like names of columns ({', '.join(names)[:80]}). "
            f"Name the columns with --event-columns or --item-columns, such as user_id,item_id,event_type,timestamp."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file}, line {line}: two columns are called {', '.join(map(repr, twice))}")


def open_bytes(file: Path) -> pa.NativeFile:
    """The bytes of a file, decompressed if it is compressed."""
    with file.open("rb") as opened:
        start = opened.read(4)
    compression = next((name for magic, name in _COMPRESSIONS.items() if start.startswith(magic)), None)
    return pa.input_stream(str(file), compression=compression)


def first_bytes(file: Path) -> bytes:
    """The first megabyte of a file, decompressed. DataError when it cannot be read."""
    try:
        with open_bytes(file) as stream:
            return bytes(stream.read(2**20))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def read_lines(file: Path, encoding: str) -> Iterator[str]:
    """The lines of a file without their ends."""
    with open_bytes(file) as stream:
        try:
            for line in io.TextIOWrapper(stream, "utf-8-sig" if encoding == "utf-8" else encoding):
                yield line.removesuffix("\n")
        except UnicodeError as error:
            raise _undecodable(file, encoding) from error
        except LookupError as error:
            raise DataError(f"there is no encoding {encoding!r}; try utf-8, latin-1, cp1252 or utf-16") from error


def uncompressed_name(file: Path) -> str:
    """The name in lower case, without the ending that says how the file is compressed."""
    return re.sub(r"\.(gz|gzip|bz2|zst|zstd|lz4)$", "", file.name.lower())


def _decodes(file: Path) -> bool:
    with open_bytes(file) as stream:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block := stream.read(BLOCK_BYTES):
                decoder.decode(bytes(block))
        except UnicodeError:
            return False
    return True


def _undecodable(file: Path, encoding: str) -> DataError:
    """The error that names the first line which is not of that encoding."""
    number = 0
    if encoding == "utf-8":
        with open_bytes(file) as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):  # noqa: B007  # it is named below
                try:
                    line.decode()
                except UnicodeError:
                    break
    where = f"{file}, line {number}" if number else str(file)
    return DataError(
        f"{where}: it is not {encoding.upper()}; say what it is with --encoding, such as --encoding latin-1 or cp1252"
    )
