"""Without a terminal, one line per step."""

import os
import sys

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
