"""The benchmark of the ops, on few rows."""

import json
from pathlib import Path

import pytest

from benchmarks import kernels, search
from benchmarks.report import Row, write_report


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "NUM_ITEMS", 2_000)
    monkeypatch.setattr(kernels, "BATCH", 4)
    monkeypatch.setattr(search, "ROUNDS", 2)


def test_search_is_measured_beside_faiss() -> None:
    rows = {row.metric: row for row in kernels.top_k()}
    assert {metric: row.must for metric, row in rows.items() if row.must} == {"topk_b1_ratio": 0.8, "topk_b4_ratio": 0.25}
    assert rows["topk_b1_ratio"].value == pytest.approx(rows["topk_b1_ms"].value / rows["topk_b1_faiss_ms"].value)


def test_what_other_programs_found_is_joined_and_sections_not_run_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.SECTIONS, "topk", lambda: [Row(metric="topk_b1_ratio", value=0.5, unit="", better="lower")])
    write_report("kernels", [Row(metric="loss_gemm_ratio", value=1.2, unit="", better="lower")])
    write_report("kernel_mutants", [Row(metric="mutation_score", value=0.8, unit="", better="higher", must=0.9)])
    assert kernels.main(["--only", "topk"]) == 1  # for the mutation score
    written = json.loads(Path("build/bench/kernels.json").read_bytes())["rows"]
    assert [row["metric"] for row in written] == ["loss_gemm_ratio", "topk_b1_ratio", "mutation_score"]
