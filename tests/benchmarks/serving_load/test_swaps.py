from pathlib import Path

import pytest

from benchmarks.serving_load import swaps
from benchmarks.serving_load.swaps import two_releases
from embedder_cache.commands import embed_command as command
from twotower.artefacts.bundle import read_table
from twotower.artefacts.release import ITEMS, list_releases, release_path


def test_the_two_releases_share_a_store_and_no_item(
    tiny_bundle: Path, tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "run_twotower", lambda _, *arguments: command.main([str(a) for a in arguments]))
    store, releases = two_releases(tiny_bundle, tiny_shop / "items.parquet", tmp_path)

    assert sorted(list_releases(store)) == sorted(releases)
    first, second = (set(read_table(release_path(store, r) / ITEMS).column("item_id").to_pylist()) for r in releases)
    assert first
    assert second
    assert not first & second
