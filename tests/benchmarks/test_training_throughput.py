from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import training_throughput
from benchmarks.training_rivals.corpus import Corpus
from benchmarks.training_rivals.job import Round
from benchmarks.training_throughput import Pair, Setting, gemm_gflops, measure, our_config, rows_of, their_config
from training.data.read import Data


def spent(seconds: float, events: int, positions: int = 10, flops: float = 5e9) -> Round:
    return Round(steps=2, seconds=seconds, events=events, positions=positions, answers=events, scores=10 * positions, flops=flops)


def test_a_speed_up_is_the_median_of_the_rounds_ratios() -> None:
    # Ours reads 100, 300 and 200 events/s; the peer 50, 50 and 400.
    pairs = [
        Pair(spent(1.0, 100), spent(2.0, 100)),
        Pair(spent(1.0, 300), spent(2.0, 100)),
        Pair(spent(1.0, 200), spent(0.25, 100)),
    ]

    rows = {row.metric: row for row in rows_of(pairs, gflops=50.0, suffix="")}

    assert (rows["train_speedup"].value, rows["train_speedup"].must, rows["train_speedup"].goal) == (2.0, 2.0, 4.0)
    assert rows["train_events_per_s_ours"].value == 200
    assert rows["train_events_per_s_theirs"].value == 50
    assert rows["train_utilisation_ours"].value == pytest.approx(10.0)
    assert rows["train_events_per_step_theirs"].value == 50
    assert rows["train_positions_per_event_ours"].value == pytest.approx(30 / 600)
    assert rows["train_candidates_per_position_ours"].value == 10


def test_only_the_headline_is_asked_for() -> None:
    rows = {row.metric: row for row in rows_of([Pair(spent(1.0, 100), spent(1.0, 100))], 50.0, "_whole")}

    assert rows["train_speedup_whole"].must is None
    assert [setting.suffix for setting in training_throughput.SETTINGS].count("") == 1


@pytest.mark.parametrize("setting", training_throughput.SETTINGS)
def test_both_sides_are_asked_for_the_same(setting: Setting) -> None:
    ours, theirs = our_config(setting), their_config(setting)

    assert (ours.width, ours.num_layers, ours.num_heads, ours.dropout) == (
        theirs.width,
        theirs.num_layers,
        theirs.num_heads,
        theirs.dropout,
    )
    assert ours.batch_windows == theirs.batch
    assert ours.max_queries >= ours.batch_windows * theirs.length
    assert ours.stages[0].train_embedder
    if setting.num_best is None:
        assert ours.stages[0].num_negatives == theirs.num_negatives
    else:
        assert ours.stages[0].num_negatives == setting.num_best
        assert theirs.loss == "softmax"


def test_rounds_take_turns_and_count_what_was_read(tiny_shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    @contextmanager
    def peer(data: Data, setting: Setting) -> Iterator[Callable[[int], Round]]:
        def run(num_steps: int) -> Round:
            asked.append(num_steps)
            return spent(1.0, 100)

        yield run

    for name, value in {"peer": peer, "WARM_UP_STEPS": 1, "ROUND_STEPS": 2, "NUM_ROUNDS": 3, "NUM_WINDOWS": 4}.items():
        monkeypatch.setattr(training_throughput, name, value)
    monkeypatch.setattr(training_throughput, "EMBEDDER_SHARE", 0.2)

    pairs = measure(Corpus(tiny_shop), Setting("", 32, num_best=400))

    assert asked == [1, 2, 2, 2]
    assert len(pairs) == 3
    for ours, _ in pairs:
        assert ours.steps == 2
        assert 0 < ours.positions < ours.events
        assert ours.scores == 400 * ours.positions
        assert ours.flops > 6 * 32 * ours.scores
        assert ours.seconds > 0


def test_the_gemm_rate_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_throughput, "GEMM_SIZES", (64,))
    assert gemm_gflops() > 0
