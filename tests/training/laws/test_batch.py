"""The critical batch."""

import numpy as np
import numpy.typing as npt
import pytest

from tests.training.laws.synthetic_runs import a_run
from training.laws.batch import AT_FIXED_EVENTS, TO_TARGET, events_to_target, fit_knee, knees
from training.sweeps.ledger import Run

BATCHES: npt.NDArray[np.float64] = np.array([64.0, 128, 256, 512, 1024, 2048])  # the range of the paper


def runs_of(events: list[int], critical: float = 500.0) -> list[Run]:
    """Runs whose loss is that of events / (1 + B / critical) events without waste: 20 - log of these."""
    return [
        a_run(
            sweep="batch",
            flops=6e5 * count,
            events=count,
            batch=int(batch),
            metrics={"set_loss": 20 - float(np.log(count / (1 + batch / critical)))},
        )
        for count in events
        for batch in BATCHES
    ]


def test_at_fixed_events_the_knee_is_where_half_of_the_events_are_wasted() -> None:
    (knee,) = knees(runs_of([1_000_000]), "set_loss")
    assert knee.how == AT_FIXED_EVENTS
    assert knee.batch.value == pytest.approx(500, rel=0.02)
    assert knee.problem == ""


def test_with_several_budgets_the_events_to_a_target_give_the_critical_batch() -> None:
    (knee,) = knees(runs_of([10**n for n in range(4, 9)]), "set_loss")
    assert knee.how == TO_TARGET
    assert knee.batch.value == pytest.approx(500, rel=0.02)


def test_the_events_to_a_target_are_read_off_between_the_runs() -> None:
    found = events_to_target(runs_of([10**4, 10**5, 10**6]), "set_loss")
    assert found is not None
    target, batch, events = found
    assert events == pytest.approx(np.exp(20 - target) * (1 + batch / 500), rel=1e-6)


def test_batches_that_reach_no_common_loss_have_no_target() -> None:
    runs = runs_of([10**6, 2 * 10**6], critical=1.0)
    assert events_to_target(runs, "set_loss") is None
    assert {knee.how for knee in knees(runs, "set_loss")} == {AT_FIXED_EVENTS}


def test_the_interval_holds_the_knee_as_often_as_it_says() -> None:
    inside = 0
    batch = np.tile(BATCHES, 2)
    for seed in range(200):
        loss = 6 + np.log1p(batch / 500) + 0.03 * np.random.default_rng(seed).standard_normal(len(batch))
        knee = fit_knee("set_loss", AT_FIXED_EVENTS, 1e12, None, batch, loss).batch
        inside += (knee.low or 0.0) <= 500 <= (knee.high or np.inf)
    assert 0.91 <= inside / 200 <= 0.99


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (np.full(6, 7.0), "larger batches cost nothing yet, so run larger ones"),
        (np.log1p(BATCHES / 20_000), "it has hardly begun to grow, so run larger ones"),
        (np.log1p(BATCHES / 2), "it grows from the smallest on, so run smaller ones"),
        (6 + np.log1p(BATCHES / 500) + np.array([1, -1, 1, -1, 1, -1]) * 0.4, "is within the noise of its runs: run more seeds"),
    ],
)
def test_where_there_is_no_knee_the_sentence_says_what_to_run_next(loss: npt.NDArray[np.float64], said: str) -> None:
    assert fit_knee("set_loss", AT_FIXED_EVENTS, 1e12, None, BATCHES, loss).problem.endswith(said)


def test_three_batches_are_too_few() -> None:
    with pytest.raises(ValueError, match="only 3 batch sizes, and a knee needs 4: run 1 more"):
        fit_knee("set_loss", AT_FIXED_EVENTS, 1e12, None, BATCHES[:3], np.ones(3))
