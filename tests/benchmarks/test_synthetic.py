"""The benchmark of synthetic behaviour measures a real run."""

import json

import pytest

from benchmarks import synthetic


def test_events_are_written_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main(["--measure", "--events", "20000"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["events"] == 20_000
    assert figures["events_per_s"] > 0
    assert figures["peak_mb"] >= 0
