"""Without a terminal, one line per step."""

import json
import os
import sys
from pathlib import Path

import pytest

from twotower import progress


def test_a_step_leaves_one_line_with_time_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("embed items", unit="items") as work:
        work.advance(40)
        work.say("half way")
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert line.startswith("embed items")
    assert "items/s" in line
    assert line.endswith("half way")


@pytest.mark.parametrize("reader_is_gone", [True, False])
def test_nobody_who_watches_and_a_full_disk_end_nothing(monkeypatch: pytest.MonkeyPatch, reader_is_gone: bool) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    descriptor = pipe if reader_is_gone else os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(descriptor, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        progress.say("serving")
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # what could not be written would fail again at the end


def test_a_program_that_waits_can_read_how_far_a_step_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr("twotower.progress._NOTED_EVERY_S", 0.0)
    with progress.step("embed items", total=10) as work:
        work.advance(4)
        assert json.loads((tmp_path / "progress.json").read_text()) == {"step": "embed items", "done": 4.0, "total": 10}
    monkeypatch.setenv("TWOTOWER_PROGRESS", str(tmp_path / "no such folder" / "progress.json"))
    with progress.step("publish"):
        pass  # a file that cannot be written stops nothing
