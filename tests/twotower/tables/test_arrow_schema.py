"""A footer without an Arrow schema, or with one that is none, names no column."""

from pathlib import Path

import pytest

from twotower.tables.arrow_schema import columns_of_wide_integers


@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW:schema\x18\x40" + b"A" * 64, b"ARROW:schema\x18\x40" + b"/" * 64])
def test_what_is_no_schema_names_no_column(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert columns_of_wide_integers(path) == []
