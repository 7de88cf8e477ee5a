"""What is not published, and what an operator may publish all the same."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.command import main
from embedder_cache.gates import Gate, load_limits, refuse_nonsense
from twotower.bundle import load_bundle
from twotower.errors import DataError
from twotower.golden import GoldenQuery
from twotower.release import GATES, GOLDEN, list_releases, read_pointer, release_path


def test_vectors_that_would_serve_nonsense_are_not_published() -> None:
    vectors = np.ones((4, 3), np.float32)
    refuse_nonsense(vectors, 2, [])
    broken = GoldenQuery(item_ids=[], times_ms=[], now_ms=0, top_item_ids=["a"], top_scores=[float("nan")])
    with pytest.raises(DataError, match="scores are not finite"):
        refuse_nonsense(vectors, 2, [broken])
    vectors[1, 0] = np.nan
    vectors[2, :2] = 0  # its popularity is still there
    with pytest.raises(DataError, match="1 item vectors are not finite and 1 are zero"):
        refuse_nonsense(vectors, 2, [])


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def halved(tiny_shop: Path, tmp_path: Path) -> Path:
    """A catalogue that lost every other item overnight."""
    items = pq.read_table(tiny_shop / "items.parquet")
    path = tmp_path / "half.parquet"
    pq.write_table(items.take(np.arange(0, len(items), 2)), path)
    return path


def test_a_catalogue_that_lost_half_its_items_is_not_published(
    store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    before = (read_pointer(store), list_releases(store))
    with pytest.raises(DataError, match=r"recent coverage is .*; item count change is 50.0%, must be at most 10.0%"):
        build_release(load_bundle(tiny_bundle), halved(tiny_shop, tmp_path), store, tiny_shop / "events.parquet")
    assert (read_pointer(store), list_releases(store)) == before


def test_force_publishes_it_and_the_reason_stays_with_the_release(
    store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    said = ["--force", "--reason", "the summer range is gone"]
    data = ["--items", halved(tiny_shop, tmp_path), "--events", tiny_shop / "events.parquet"]
    assert main([str(a) for a in ["--bundle", tiny_bundle, "--store", store, *data, *said]]) == 0
    gates = json.loads((release_path(store, read_pointer(store).release) / GATES).read_bytes())
    assert (gates["passed"], gates["forced"], gates["items"]) == (False, "the summer range is gone", 200)
    assert {g["name"]: g["passed"] for g in gates["gates"]} == {
        "recent_coverage": False,
        "item_count_change": False,
        "golden_overlap": True,
    }


@pytest.mark.parametrize("alone", [["--force"], ["--reason", "because"]])
def test_force_wants_a_reason(alone: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", "b", "--items", "i", "--store", "s", *alone])
    assert "go together" in capsys.readouterr().err


def test_limits_come_from_a_file(store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text("item_count_change = 0.5\nrecent_coverage = 0.3\n")
    limits = load_limits(tmp_path / "gates.toml")
    bundle, events = load_bundle(tiny_bundle), tiny_shop / "events.parquet"
    assert build_release(bundle, halved(tiny_shop, tmp_path), store, events, limits=limits).num_items == 200


@pytest.mark.parametrize("text", ["item_count_change = 2.0", "typo = 0.1", "item_count_change = 'a'", "= 3"])
def test_limits_that_mean_nothing_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(DataError, match=r"gates\.toml"):
        load_limits(tmp_path / "gates.toml")


def test_a_release_that_answers_all_differently_is_not_published(
    store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    golden = release_path(store, read_pointer(store).release) / GOLDEN
    queries = msgspec.json.decode(golden.read_bytes(), type=list[GoldenQuery])
    last = pq.read_table(tiny_shop / "items.parquet")["item_id"].to_pylist()[-10:]  # nobody's favourites
    golden.write_bytes(msgspec.json.encode([msgspec.structs.replace(q, top_item_ids=last) for q in queries]))
    with pytest.raises(DataError, match=r"golden overlap is \d\.\d%, must be at least 10\.0%"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, None)


def test_a_served_release_that_cannot_be_read_stops_nobody(
    store: Path, tiny_shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release_path(store, read_pointer(store).release) / GOLDEN).unlink()
    assert build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, None).changed
    assert "nothing is compared with it" in capsys.readouterr().err


def test_nan_passes_no_gate() -> None:
    assert not Gate(name="overlap", value=float("nan"), at_least=0.0).passed
    assert not Gate(name="change", value=float("nan"), at_most=1.0).passed
