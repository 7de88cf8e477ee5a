import json
from pathlib import Path

import pytest

from loadtests.outcomes import Fate, Outcomes, fate_of, read_outcomes
from loadtests.traffic import EVENTS, RECOMMEND

TEN = json.dumps({"items": [{}] * 10}).encode()
DEGRADED = json.dumps({"items": [{}] * 10, "degraded": ["history_unavailable"]}).encode()


@pytest.mark.parametrize(
    ("path", "status", "content", "fate"),
    [
        (RECOMMEND, 200, TEN, Fate.GOOD),
        (RECOMMEND, 200, DEGRADED, Fate.DEGRADED),
        (RECOMMEND, 200, b'{"items": [{}]}', Fate.FAILED),
        (RECOMMEND, 200, b"<html>", Fate.FAILED),
        (RECOMMEND, 503, b"", Fate.REFUSED),
        (RECOMMEND, 429, b"", Fate.REFUSED),
        (RECOMMEND, 500, b"", Fate.FAILED),
        (RECOMMEND, 0, b"", Fate.FAILED),
        (EVENTS, 202, b'{"accepted": 2}', Fate.GOOD),
        (EVENTS, 202, b'{"accepted": 1}', Fate.FAILED),
    ],
)
def test_the_fate_of_a_request(path: str, status: int, content: bytes, fate: Fate) -> None:
    assert fate_of(path, {"events": [{}, {}]}, status, content) == fate


def seen(*rows: tuple[float, str, Fate], generator: str = "poisson") -> Outcomes:
    outcomes = Outcomes(generator=generator, profile="steady", seconds=1.0)  # type: ignore[arg-type]
    for at, (ms, path, fate) in enumerate(rows):
        outcomes.add(float(at), ms, path, fate)
    return outcomes


def test_the_figures_by_hand() -> None:
    rows = [
        (10.0, RECOMMEND, Fate.GOOD),
        (20.0, RECOMMEND, Fate.DEGRADED),
        (150.0, RECOMMEND, Fate.GOOD),
        (5.0, EVENTS, Fate.GOOD),
    ]
    figures = seen(
        *rows, (1.0, RECOMMEND, Fate.REFUSED), (2.0, EVENTS, Fate.FAILED), (3.0, EVENTS, Fate.GOOD), (4.0, EVENTS, Fate.GOOD)
    )
    assert figures.figures() == {
        "p50_ms": 20.0,
        "p99_ms": 150.0,
        "p999_ms": 150.0,
        "error_share": 2 / 8,
        "degraded_share": 1 / 3,
        "refusal_p50_ms": 1.0,
        "goodput_share": 4 / 8,
        "end_goodput_share": 2 / 3,
    }


def test_a_generators_own_figures_come_before_ours() -> None:
    outcomes = seen((10.0, RECOMMEND, Fate.GOOD))
    outcomes.own = {"p99_ms": 7.0}
    assert outcomes.figures()["p99_ms"] == 7.0


def test_without_an_answer_there_is_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match=r"poisson got no recommendation \(0 good, 0 degraded, 1 refused, 1 failed\)"):
        seen((1.0, RECOMMEND, Fate.REFUSED), (1.0, EVENTS, Fate.FAILED)).figures()


def test_outcomes_come_back_from_their_files_in_the_order_of_the_generators(tmp_path: Path) -> None:
    written = [seen((10.0, RECOMMEND, Fate.GOOD), generator=name) for name in ("loadgen", "poisson")]
    for outcomes in written:
        outcomes.write(tmp_path)
    assert read_outcomes(tmp_path, "steady") == written[::-1]


def test_a_missing_or_damaged_outcome_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no outcome of the profile 'steady': run `make loadtest ARGS=steady` first"):
        read_outcomes(tmp_path, "steady")
    (tmp_path / "steady-poisson.outcomes.json").write_text("{")
    with pytest.raises(ValueError, match="is not the outcome of a load test"):
        read_outcomes(tmp_path, "steady")
