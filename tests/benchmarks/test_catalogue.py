"""The benchmark of the nightly job measures right, on small catalogues."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import catalogue
from benchmarks.catalogue import Built, build_here, incremental, items_file, make_bundle, slope, write_catalogue
from benchmarks.large import measure
from benchmarks.large.measure import measure_large
from benchmarks.report import Row


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Catalogues of 100, 200 and 400 items."""
    monkeypatch.setattr(catalogue, "WHERE", tmp_path)
    monkeypatch.setattr(catalogue, "SIZES", (100, 200, 400))
    monkeypatch.setattr(catalogue, "ROUNDS", 1)
    monkeypatch.setattr(catalogue, "ENCODING_ROUNDS", 1)
    for size in catalogue.SIZES:
        for changed in (0.0, catalogue.CHANGED):
            write_catalogue(items_file(size, changed), size, changed)
    return tmp_path


def test_the_changed_catalogue_differs_in_one_per_cent_of_its_items(small: Path) -> None:
    before, after = (pq.read_table(items_file(200, changed)).to_pylist() for changed in (0.0, catalogue.CHANGED))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2
    assert [row["item_id"] for row in before] == [row["item_id"] for row in after]
    assert len({row["item_id"] for row in before}) == 200


def test_a_night_of_small_changes_is_set_against_a_full_build(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(small / "small", "small")
    monkeypatch.setattr(catalogue, "build_apart", build_here)
    rows = {row.metric: row for row in incremental(bundle.path, "")}
    assert (rows["incremental_fraction"].must, rows["incremental_bytes"].must) == (0.3, 0.1)
    assert rows["incremental_fraction"].value > 0


def test_encoding_is_set_against_the_matrix_products_of_the_embedder(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "gemm_gflops", lambda: 1.0)
    bundle = make_bundle(small / "small", "small")
    model = bundle.towers.config.model
    rows = {row.metric: row.value for row in catalogue.encoding(bundle, "")}
    assert rows["encode_flops_per_item"] == 2 * model.embedder_hidden * (model.embedder_input + model.width)
    allowed = 1e9 / rows["encode_flops_per_item"]
    assert rows["encode_gemm_fraction"] == pytest.approx(rows["encode_items_per_s"] / allowed)


def test_a_section_alone_replaces_its_rows(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [Row(metric=metric, value=1.0, unit="", better="higher") for metric in ("encode_gemm_fraction", "rss_1m_gib")]
    reported: list[Row] = []
    monkeypatch.setattr(catalogue, "gemm_gflops", lambda: 1e-3)
    monkeypatch.setattr(catalogue, "read_rows", lambda name: old)
    monkeypatch.setattr(catalogue, "write_report", lambda name, rows: reported.extend(rows))
    assert catalogue.main(["--only", "encoding"]) == 0
    values = {row.metric: row.value for row in reported}
    assert values["rss_1m_gib"] == 1.0
    assert values["encode_gemm_fraction"] > 1.0
    assert "incremental_fraction" not in values


def test_growth_is_the_slope_of_the_last_decade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SIZES", (1, 10, 100))
    built = {size: Built(seconds=3.0 + size**1.5, peak_bytes=size, num_embedded=size, written_bytes=size) for size in (10, 100)}
    assert slope(built, "peak_bytes") == pytest.approx(1.0)
    assert 1.4 < slope(built, "seconds") < 1.5


def test_one_build_can_run_in_a_process_of_its_own(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(small / "small", "small")
    assert catalogue.main(["--build", str(bundle.path), str(items_file(100, 0.0)), str(small / "store")]) == 0
    built = Built(**json.loads(capsys.readouterr().out))
    assert built.num_embedded == 100
    assert built.seconds > 0


def test_a_large_catalogue_is_built_served_and_swapped(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "NUM_ITEMS", 3_000)
    monkeypatch.setattr(measure, "CHANGED", 0.05)
    rows = {row.metric: row for row in measure_large(make_bundle(small / "small", "small"), build_here, small)}
    assert {name: row.must for name, row in rows.items() if row.must} == {
        "large_build_s": 360.0,
        "large_build_gib": 8.0,
        "large_exact_over_faiss": 0.5,
        "large_swap_memory": 1.15,
    }
    assert all(row.value > 0 for row in rows.values())
    assert list(small.glob("large-*")) == [], "nothing stays on the disk"
