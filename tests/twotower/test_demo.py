"""The demo's own parts; the whole of it runs in `make demo`."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower import demo
from twotower.errors import EnvironmentProblem, TwoTowerError


def test_it_clears_only_what_a_demo_made(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo.clear(out)
    (out / "report.json").write_text("{}")
    demo.clear(out)
    assert not (out / "report.json").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(EnvironmentProblem, match="holds other files"):
        demo.clear(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_histories_are_posted_as_the_service_takes_them(tmp_path: Path) -> None:
    rows = 301
    table = pa.table(
        {
            "user_id": ["a"] * rows + ["b"],
            "item_id": [str(i) for i in range(rows + 1)],
            "event_type": ["purchase"] * (rows + 1),
            "timestamp": pa.array(list(range(rows + 1))[::-1], pa.timestamp("ms", "UTC")),
            "price_paid": [1.0] * (rows + 1),
            "store_id": ["s"] * (rows + 1),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    histories = demo.households(tmp_path / "events.parquet")
    assert list(histories) == ["a"], "households with too short a history are left out"
    assert [e["timestamp"] for e in histories["a"]] == sorted(e["timestamp"] for e in histories["a"])
    assert json.dumps(histories["a"][0])


def test_the_running_service_counts_towards_the_peak() -> None:
    assert demo.peak_gib(os.getpid()) > 0.05


def test_a_failing_stage_stops_the_demo() -> None:
    with pytest.raises(TwoTowerError, match="twotower prepare"):
        demo.command("prepare", "no-such-corpus", "--out", "nowhere")


def test_the_page_is_opened_on_the_household_of_the_demo() -> None:
    assert demo.page(8000, "10 01&x") == "http://127.0.0.1:8000/?user=10+01%26x"
