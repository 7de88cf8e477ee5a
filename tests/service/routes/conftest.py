"""Servers of a store with two releases."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.release.loading import open_release
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory, TwoReleases
from twotower.artefacts.release import release_path

Shop = Callable[..., Client]


@pytest.fixture
def shop(two: TwoReleases) -> Iterator[Shop]:
    """Starts servers of a store with two releases."""
    started: list[Client] = []

    def start(release: str, variants: Path | None = None) -> Client:
        settings = Settings(store=two.store, torch_threads=1, poll_s=3600, variants=variants)
        client = Client(settings, open_release(release_path(two.store, release)), MemoryHistory())
        started.append(client.__enter__())
        return client

    yield start
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def half_and_half(two: TwoReleases, tmp_path: Path) -> Path:
    """A plan of two arms: the current release, and always the first one."""
    plan = tmp_path / "variants.toml"
    plan.write_text(
        f"""
        [[arms]]
        name = "new"
        percent = 50
        [[arms]]
        name = "old"
        percent = 50
        release = "{two.first}"
        """
    )
    return plan
