"""Catalogues as the client uploads them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.uploads.file_format import COLUMNS


def catalogue(**columns: list[Any]) -> pa.Table:
    """A catalogue with these columns; all others are null."""
    num_rows = len(next(iter(columns.values())))
    given = {name: pa.array(values, COLUMNS[name]) for name, values in columns.items()}
    return pa.table({name: given.get(name, pa.nulls(num_rows, kind)) for name, kind in COLUMNS.items()})


def written(directory: Path, table: pa.Table, name: str = "catalogue.parquet") -> Path:
    """The path of a Parquet file with the table."""
    pq.write_table(table, directory / name)
    return directory / name
