"""Without a terminal, one line per step."""

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
