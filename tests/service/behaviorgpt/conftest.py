"""A real server that answers the client, and the tiny shop as a file that the client uploads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.client_calls.catalogue_file import write_catalogue
from tests.service.faults.processes import serving
from twotower.data.schema import load_schema


@pytest.fixture(scope="module")
def shop_file(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the tiny shop in the client's columns."""
    path = tmp_path_factory.mktemp("upload") / "my shop.parquet"
    items, events = (pq.read_table(tiny_shop / name) for name in ("items.parquet", "events.parquet"))
    write_catalogue(items.slice(0, 200), load_schema(tiny_shop / "schema.toml"), path, events)
    return path


@pytest.fixture(scope="module")
def address(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server of the tiny shop answers, with an upload limit of 1 MB and no keys."""
    directory = tmp_path_factory.mktemp("server")
    settings: dict[str, Any] = {
        "behaviorgpt_dir": directory / "catalogues",
        "behaviorgpt_max_upload_mb": 1,
        "behaviorgpt_max_catalogs": 3,
    }
    with serving(tiny_store, directory / "h.db", "--behaviorgpt", **settings) as server:
        yield server.address
