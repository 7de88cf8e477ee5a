"""The tiny shop as the benchmarks read it."""

from pathlib import Path

import pytest

from training.data.read import Data, read_data
from twotower.data.schema import load_schema


@pytest.fixture(scope="session")
def data(tiny_shop: Path) -> Data:
    return read_data(
        tiny_shop / "events.parquet", tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml"), (14.0,), 32
    )
