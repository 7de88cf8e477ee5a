"""What the file of a catalogue must hold."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.uploads.file_format import COLUMNS, count_ids, main, problems_of
from tests.service.uploads.files import catalogue, written
from twotower.errors import DataError


def test_a_catalogue_is_counted_by_its_ids(tmp_path: Path) -> None:
    assert count_ids(written(tmp_path, catalogue(id=["a", "b", "a"], name=["x", "y", "z"]))) == 2


def test_large_view_and_dictionary_layouts_are_the_plain_types_and_a_column_may_be_all_null() -> None:
    kinds: dict[str, pa.DataType] = dict(COLUMNS)
    kinds |= {"id": pa.large_string(), "name": pa.string_view(), "brand": pa.dictionary(pa.int32(), pa.large_string())}
    kinds |= {"keywords": pa.large_list(pa.large_string()), "sales_since": pa.null(), "price": pa.null()}
    assert problems_of(pa.schema(kinds)) == []


def test_every_column_that_is_missing_or_of_another_type_is_named() -> None:
    kinds = dict(COLUMNS) | {"price": pa.float64()}
    del kinds["brand"]
    assert problems_of(pa.schema(kinds)) == [
        "the column brand is missing",
        "the column price is double, and must be string",
    ]


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1 and then no footer PAR1", b"", b"id,name\n1,a\n"])
def test_what_is_not_parquet_is_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(content)
    assert main([str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == "twotower: error: the file is not a Parquet file that can be read\n"


def test_a_file_cut_short_and_one_without_rows_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, catalogue(id=["a"], name=["x"]))
    (tmp_path / "short").write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a Parquet file"):
        count_ids(tmp_path / "short")
    pq.write_table(catalogue(id=[], name=[]), tmp_path / "empty")
    with pytest.raises(DataError, match="no rows"):
        count_ids(tmp_path / "empty")
