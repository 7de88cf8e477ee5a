"""Delimited text is read as it is written, and what cannot be read is named by its line."""

import bz2
import gzip
from pathlib import Path

import pytest

from training.corpora.text_files import TextOptions, open_text
from twotower.errors import DataError

Row = dict[str, str | None]


def read(file: Path, content: bytes, **options: object) -> list[Row]:
    file.write_bytes(content)
    source = open_text(file, TextOptions(**options))  # type: ignore[arg-type]
    return [row for batch in source.batches() for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"a,b\n007,x y\n"),
        ("a.csv", b"\xef\xbb\xbfa,b\r\n007,x y\r\n"),
        ("a.csv", b"a;b\n007;x y\n"),
        ("a.csv", b'"a";"b"\n"007";"x y"'),
        ("a.csv", b"\n\na|b\n007|x y\n\n"),
        ("a.tsv", b"a\tb\n007\tx y\n"),
        ("a.inter", b"a\tb\n007\tx y\n"),
        ("a.dat", b"a::b\n007::x y\n"),
        ("a.csv", "a,b\n007,x y\n".encode("utf-16")),
        ("a.csv.gz", gzip.compress(b"a,b\n007,x y\n", mtime=0)),
        ("export", bz2.compress(b"a,b\n007,x y\n")),
    ],
    ids=str,
)
def test_separators_quotes_compression_and_marks_are_found_out(tmp_path: Path, name: str, content: bytes) -> None:
    assert read(tmp_path / name, content) == [{"a": "007", "b": "x y"}]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('"a, ""b"" c"', 'a, "b" c'),
        ('"two\nlines"', "two\nlines"),
        ('"a \\"b\\" c"', 'a "b" c'),
        ('5" screen', '5" screen'),
        ("NULL", None),
        ("\\N", None),
        ("", None),
        ("NA", "NA"),
        (" x ", " x "),
    ],
)
def test_a_field_is_what_it_says(tmp_path: Path, field: str, expected: str | None) -> None:
    assert read(tmp_path / "a.csv", f"a,b\n1,{field}\n2,z\n".encode()) == [{"a": "1", "b": expected}, {"a": "2", "b": "z"}]


def test_a_file_without_names_gets_them(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"1,2\n3,4\n", columns=("a", "b")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_the_files_of_movielens_have_the_names_that_its_readme_gives(tmp_path: Path) -> None:
    (rating,) = read(tmp_path / "ratings.dat", b"1::1193::5::978300760\n")
    assert rating == {"user_id": "1", "item_id": "1193", "rating": "5", "timestamp": "978300760"}
    (movie,) = read(tmp_path / "movies.dat", b'2::Ep: \xe9 "x (1995)::Drama\n')
    assert movie == {"item_id": "2", "title": 'Ep: é "x (1995)', "genres": "Drama"}


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"a,b\n1,caf\xe9\n", encoding="cp1252") == [{"a": "1", "b": "café"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n3\n4,5\n", "a.csv, line 3: it has not 2 fields separated by ','"),
        (b"a,b\n1,2\n\n3,4,5\n", "a.csv, line 4: it has not 2 fields"),
        (b"a,b\n1,x\n2,caf\xe9\n", "a.csv, line 3: it is not UTF-8; .*--encoding latin-1"),
        (b'a,b\nx,1\n"y,2\nz,3\n', "a.csv, line 3: a quotation mark is opened there"),
        (b'a,b\nx,1\ny,"2\nz,3\n', "a.csv, line 3: a quotation mark is opened and never closed"),
        (b"1,2\n3,4\n", "a.csv, line 1: it looks like data, not like names .*--event-columns"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b"abc\n1\n", "one field only .*--delimiter"),
        (b"\n\n", "is empty"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / "a.csv", content)
    assert "\n" not in str(caught.value)


def test_a_bad_line_of_pairs_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3: it has not 2 fields separated by '::'"):
        read(tmp_path / "a.dat", b"a::b\n1::2\n3:4\n")


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n"), ("a.dat", b"a::b\n1::2\n3\n4\n7::8\n")])
def test_bad_lines_are_left_out_and_counted_on_request(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    source = open_text(tmp_path / name, TextOptions(skip_bad_lines=True))
    for _ in range(2):  # it is read twice
        assert [row["a"] for batch in source.batches() for row in batch.to_pylist()] == ["1", "7"]
        assert source.num_bad == [2]
        assert source.line_of(source.bad_lines[0]) == 3


def test_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no encoding 'latin-9000'"):
        read(tmp_path / "a.csv", b"a,b\n1,2\n", encoding="latin-9000")
