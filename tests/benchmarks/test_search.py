"""The benchmark of search, on few items."""

import numpy as np
import pytest

from benchmarks import search
from benchmarks.search import measure, rows_of, synthetic
from twotower.data.features import Floats
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index


def test_it_measures_what_is_asked_of_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROUNDS", 2)
    monkeypatch.setattr(search, "NUM_ITEMS", 3_000)
    monkeypatch.setattr(search, "NUM_COMPARED", 200)
    measured = measure(*synthetic())
    assert measured.int8_id_mismatches == 0
    assert measured.int8_bytes_fraction < 0.30
    assert measured.approx_recall100 >= 0.95
    assert {row.metric: row.must for row in rows_of(measured) if row.must is not None} == {
        "exact_speedup_b1": 1.0,
        "exact_speedup_b64": 3.0,
        "int8_over_flat_b1": 1.5,
        "int8_id_mismatches": 0,
        "int8_bytes_fraction": 0.30,
        "approx_recall100": 0.95,
    }


def test_a_wrong_answer_is_counted() -> None:
    vectors, _, queries = np.eye(4, dtype=np.float32), 3, np.ones((2, 4), np.float32)
    right = index_over(vectors)
    assert search.mismatches(right, right, queries) == 0
    assert search.mismatches(right, index_over(vectors[::-1].copy()), queries) > 0


def index_over(vectors: Floats) -> Index:
    scan = Scan(Float32Rows(vectors))
    return Index("flat", vectors, scan, scan)
