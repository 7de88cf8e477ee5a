"""Intervals come from drawing whole seconds again."""

import numpy as np

from loadtests.intervals import MIN_SECONDS, intervals
from loadtests.outcomes import Fate, Outcomes
from loadtests.traffic import RECOMMEND


def outcomes(num_seconds: int, latency_ms: float = 10.0) -> Outcomes:
    found = Outcomes(generator="poisson", profile="steady", seconds=float(num_seconds))
    rng = np.random.default_rng(0)
    for number in range(20 * num_seconds):
        found.add(number / 20, latency_ms * float(rng.exponential()), RECOMMEND, Fate.GOOD)
    return found


def test_the_interval_holds_the_quantile_and_is_not_a_point() -> None:
    found = outcomes(60)
    low, high = intervals(found)["p50_ms"]
    assert low < found.figures()["p50_ms"] < high


def test_one_slow_second_makes_the_tail_uncertain_and_leaves_the_middle() -> None:
    even, uneven = outcomes(60), outcomes(60)
    for number in range(20):
        uneven.latency_ms[number] += 500
    (low, high), (even_low, even_high) = intervals(uneven)["p99_ms"], intervals(even)["p99_ms"]
    assert high - low > 5 * (even_high - even_low)
    assert intervals(uneven)["p50_ms"][1] < 1.5 * intervals(even)["p50_ms"][1]


def test_a_short_test_and_what_never_varied_have_none() -> None:
    assert intervals(outcomes(MIN_SECONDS - 1)) == {}
    assert "error_share" not in intervals(outcomes(MIN_SECONDS + 5)), "no request failed in any second"


def test_a_figure_that_a_generator_computed_by_itself_has_none() -> None:
    found = outcomes(30)
    found.own = {"p99_ms": 1.0}
    assert set(intervals(found)) & {"p50_ms", "p99_ms"} == {"p50_ms"}
