"""The GPU benchmark without a GPU: everything except the kernels runs, and no time is printed."""

import pytest
import torch

from benchmarks.gpu import cells, lead_ratio, main, rows_of
from benchmarks.kernel_races.race import Race, Result, run_race


def race(answer: float) -> Race:
    return Race(
        op="double",
        shape="1",
        num_bytes=4.0,
        num_flop=1.0,
        inputs=lambda seed: (torch.ones(1),),
        contenders={"ours": lambda x: answer * x},
        error=lambda answer, inputs: float((answer - 2 * inputs[0]).abs()),
        tolerance=1e-6,
    )


def test_a_dry_run_takes_every_path_and_times_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run"]) == 0

    out = capsys.readouterr().out
    assert "ceilings: not measured" in out
    assert "WRONG" not in out


def test_without_a_gpu_only_a_dry_run_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "no GPU" in capsys.readouterr().err


def test_wrong_answers_and_nan_are_found() -> None:
    assert [result.is_wrong for answer in (2.0, 2.1, float("nan")) for result in run_race(race(answer), timing=False)] == [
        False,
        True,
        True,
    ]


def test_what_was_not_timed_has_no_number() -> None:
    result = Result(race(2.0), "ours", 0.0, None)

    assert [cell for cell in cells(result, None) if cell] == ["not measured"]
    assert rows_of([result], None) == []
    assert lead_ratio(result, [result]) is None
