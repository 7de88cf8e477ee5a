"""The ledger: what was planned, what ended, and nothing lost or done twice."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from training.sweeps.grids import base, shape_of
from training.sweeps.ledger import Ledger, Run, export, read_runs
from training.sweeps.measure import ended
from twotower.errors import DataError

FIRST = replace(base("shop-1", shape_of("16x1")), sweep="isoflop", flops=1e9)
SECOND = replace(FIRST, seed=1)


def done(seed: int = 0) -> Run:
    return replace(ended(replace(FIRST, seed=seed), "done", ""), parameters=1_000, metrics={"set_loss": 5.0})


def test_a_run_that_did_not_end_is_still_planned_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert ledger.plan([FIRST, SECOND]) == 2
        ledger.keep(done())
    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert ledger.plan([FIRST, SECOND]) == 0
        assert ledger.open_runs() == [SECOND]
        assert ledger.runs() == [done()]


def test_runs_of_equal_settings_are_one_run_and_of_other_settings_another() -> None:
    assert FIRST.key == replace(FIRST).key
    assert len({FIRST.key, SECOND.key, replace(FIRST, flops=2e9).key, replace(FIRST, negatives=None).key}) == 4


def test_failed_runs_can_be_put_back_and_finished_ones_stay(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.plan([FIRST, SECOND])
        ledger.keep(done())
        ledger.keep(ended(SECOND, "failed", "no memory"))
        assert ledger.forget(("failed", "diverged")) == 1
        assert ledger.open_runs() == [SECOND]


def test_only_one_process_may_have_a_ledger_open(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite"), pytest.raises(DataError, match=r"another process uses the ledger .*a\.sqlite"):
        Ledger(tmp_path / "a.sqlite")


@pytest.mark.parametrize("name", ["runs.sqlite", "runs.parquet"])
def test_runs_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("sqlite"):
        with Ledger(path) as ledger:
            ledger.plan([FIRST, SECOND])
            ledger.keep(done())
            assert read_runs(path) == [done()], "also while the sweep goes on"
    else:
        export([done()], path)
        assert read_runs(path) == [done()]


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no ledger .*missing"):
        read_runs(tmp_path / "missing")
    (tmp_path / "text").write_text("not a ledger, but long enough for one page of a data base" * 100)
    with pytest.raises(DataError, match=r"text is no ledger \(file is not a database\)"):
        read_runs(tmp_path / "text")
    with pytest.raises(DataError, match=r"text is no ledger \(file is not a database\)"):
        Ledger(tmp_path / "text")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet is a Parquet file but no ledger"):
        read_runs(tmp_path / "other.parquet")
