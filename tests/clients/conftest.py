"""A real server of the tiny shop for the clients, and what can go wrong between them and it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.page_server import PageServer
from tests.clients.trouble import Trouble
from tests.service.faults.processes import Running, serving


@pytest.fixture(scope="session")
def pages() -> Iterator[PageServer]:
    """A web site, whose pages may call the server from a browser."""
    with PageServer() as server:
        yield server


@pytest.fixture(scope="session")
def server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory, pages: PageServer) -> Iterator[Running]:
    """A server without API keys, with a store and a history of its own."""
    directory = tmp_path_factory.mktemp("served")
    store = Path(shutil.copytree(tiny_store, directory / "store"))
    with serving(store, directory / "history.db", cors_origins=pages.url, torch_threads=1, max_wait_s=30) as running:
        yield running


@pytest.fixture
def trouble(server: Running) -> Iterator[Trouble]:
    """A proxy in front of the server that does to requests what a test tells it."""
    with Trouble(server.address) as proxy:
        yield proxy
