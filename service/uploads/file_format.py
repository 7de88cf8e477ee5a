"""What the file of a catalogue must hold, and a program that checks one. It is imported without torch, so it answers at once.

`python -m service.uploads.file_format FILE` prints how many ids a catalogue has. It ends with exit status 2 and one line when the
file is none. It is a process of its own, because a file can crash its reader.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.errors import DataError

NOT_PARQUET = "the file is not a Parquet file that can be read"
COLUMNS: Mapping[str, pa.DataType] = MappingProxyType(
    {
        "id": pa.string(),
        "name": pa.string(),
        "brand": pa.string(),
        "categories": pa.string(),  # a path, such as `Clothing, Trousers`
        "image_url": pa.string(),
        "event_type": pa.string(),
        "group": pa.string(),
        "sales_since": pa.list_(pa.int64()),  # sales of the last 30, 60, ... 330 days, and of all time
        "timestamp": pa.int64(),  # of the first sale, in epoch seconds
        "frequency": pa.int64(),  # interactions of all time
        "market": pa.string(),
        "price": pa.string(),
        "currency": pa.string(),
        "search_keywords": pa.list_(pa.string()),
        "keywords": pa.list_(pa.string()),
    }
)


def count_ids(file: Path) -> int:
    """The number of different ids in the Parquet file of a catalogue; DataError when it is none."""
    try:
        with pq.ParquetFile(file) as opened:
            if problems := problems_of(opened.schema_arrow):
                raise DataError(f"the file is no catalogue: {'; '.join(problems)}")
            if not opened.metadata.num_rows:
                raise DataError("the file has no rows")
            return len(pc.unique(opened.read(["id"]).column("id")).drop_null())
    except (pa.ArrowException, OSError) as error:
        raise DataError(NOT_PARQUET) from error


def problems_of(schema: pa.Schema) -> list[str]:
    """What is wrong with the columns of a file, in words."""
    problems = []
    for name, kind in COLUMNS.items():
        if name not in schema.names:
            problems.append(f"the column {name} is missing")
        elif plain_of(found := schema.field(name).type) != kind and not pa.types.is_null(found):
            problems.append(f"the column {name} is {found}, and must be {kind}")
    return problems


def plain_of(kind: pa.DataType) -> pa.DataType:
    """The plain type of a column in a large, view or dictionary layout."""
    if pa.types.is_dictionary(kind):
        return plain_of(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.list_(plain_of(kind.value_type))
    return kind


def main(arguments: list[str]) -> int:
    """Check one file."""
    try:
        sys.stdout.write(f"{count_ids(Path(arguments[0]))}\n")
    except DataError as error:
        sys.stderr.write(f"twotower: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
