"""`twotower embed` says what it did."""

import json
from pathlib import Path

import pytest

from embedder_cache.command import main


def test_it_publishes_once_and_says_when_nothing_changed(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store"]
    assert main([str(a) for a in arguments]) == 0
    assert "published release-" in capsys.readouterr().err
    assert main([str(a) for a in [*arguments, "--json"]]) == 0
    said = capsys.readouterr()
    assert "nothing changed" in said.err
    assert json.loads(said.out)["items"] == 400
