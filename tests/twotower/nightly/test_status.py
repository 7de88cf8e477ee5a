"""What became of a night is on the disk, and can be told in a sentence or a table."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from twotower.errors import DataError
from twotower.nightly.status import STATUS, STEPS, Night, as_table, new_night, night_before, nights, read_night, write_night
from twotower.terminal import console


def ended(date: str, **states: str) -> Night:
    night = new_night(date)
    for step in night.steps:
        step.state = states.get(step.name, "done")  # type: ignore[assignment]
        step.message = f"of {step.name}"
    return night


def test_what_was_written_is_read(tmp_path: Path) -> None:
    night = ended("2026-05-31", clean="running")
    night.step("embed").started = datetime(2026, 5, 31, 2, tzinfo=UTC)
    night.release = "release-000000000001"
    write_night(night, tmp_path)
    assert read_night(tmp_path) == night
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({}, ""),
        ({"train": "skipped"}, ""),
        ({"embed": "failed"}, "the night of 2026-05-31 failed in `embed`: of embed"),
        ({"embed": "running"}, "the night of 2026-05-31 was stopped in `embed`: of embed"),
        ({"embed": "stopped"}, "the night of 2026-05-31 was stopped in `embed`: of embed"),
        ({"clean": "pending"}, "the night of 2026-05-31 stopped before `clean`: of clean"),
        ({"evaluate": "refused"}, "the night of 2026-05-31 went on after it was refused in `evaluate`: of evaluate"),
        ({"evaluate": "refused", "canary": "failed"}, "the night of 2026-05-31 failed in `canary`: of canary"),
    ],
)
def test_what_is_wrong_is_one_sentence(states: dict[str, str], told: str) -> None:
    assert ended("2026-05-31", **states).sentence() == told


def test_the_night_before_is_the_last_one_there_is(tmp_path: Path) -> None:
    for date in ("2026-05-28", "2026-05-30", "2026-05-31"):
        (tmp_path / date).mkdir()
        write_night(ended(date), tmp_path / date)
    (tmp_path / "notes").mkdir()
    assert [path.name for path in nights(tmp_path)] == ["2026-05-31", "2026-05-30", "2026-05-28"]
    before = night_before(tmp_path, "2026-05-30")
    assert before is not None
    assert before.date == "2026-05-28"
    assert night_before(tmp_path, "2026-05-28") is None


@pytest.mark.parametrize("content", [b"{", b'{"date": "2026-05-31", "steps": []}'])
def test_a_status_that_cannot_be_read_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATUS).write_bytes(content)
    with pytest.raises(DataError, match="Remove it to do the night again"):
        read_night(tmp_path)


def test_the_table_has_a_row_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    night = ended("2026-05-31", canary="failed")
    night.step("canary").exit_status = 1
    night.step("canary").started = datetime(2026, 5, 31, 2, 3, 4, tzinfo=UTC)
    night.step("canary").ended = datetime(2026, 5, 31, 2, 3, 9, tzinfo=UTC)
    console(width=120).print(as_table(night))
    shown = capsys.readouterr().out
    assert all(name in shown for name in STEPS)
    (row,) = [line for line in shown.splitlines() if "canary" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["canary", "failed", "02:03:04", "5.0", "1", "of canary"]
