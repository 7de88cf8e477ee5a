"""The reported figures are computed right from the measurements."""

import pytest

from benchmarks import serving
from benchmarks.report import Row
from benchmarks.serving import Capacities, FrameworkPair, compared, framework_rows, overloaded, swapped
from benchmarks.serving_load.swaps import Swapped
from loadtests.capacity import Probe
from loadtests.generator import Measured


def probe(requests_per_s: float, p99_ms: float = 40.0) -> Probe:
    return Probe(connections=4, requests_per_s=requests_per_s, p50_ms=9.0, p99_ms=p99_ms, cpu_ms=1.0, generator_cpu_ms=0.1)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


def test_capacities_are_set_against_each_other_over_visits() -> None:
    systems = {
        "ours": Capacities(probe(800.0), probe(90.0)),
        "fastapi": Capacities(probe(40.0), probe(39.0)),
        "litserve": Capacities(probe(80.0), probe(70.0)),
    }
    rows = by_name(compared(systems, engine_per_s=1000.0))
    assert rows["rps_vs_fastapi"].value == 20.0
    assert rows["rps_vs_litserve"].value == 10.0
    assert rows["engine_fraction"].value == 0.8
    assert rows["ours_cold_rps"].value == 90.0


def test_only_ours_must_keep_the_limit_it_is_credited_for() -> None:
    slow = Capacities(probe(40.0, p99_ms=60.0), probe(40.0))
    rows = by_name(compared({"ours": slow, "fastapi": slow, "litserve": slow}, engine_per_s=50.0))
    assert not rows["ours_visits_p99_ms"].meets_must
    assert rows["fastapi_visits_p99_ms"].meets_must


def test_an_answer_that_comes_too_late_is_no_goodput() -> None:
    measured = Measured(
        seconds=2.0,
        answered_ms=[10.0] * 90 + [serving.PATIENCE_MS + 1] * 5,
        refused_ms=[1.0] * 1890 + [4.0] * 15,
        late_ms=[0.5],
        num_asked=2000,
    )
    rows = by_name(overloaded(measured, capacity_per_s=50.0))
    assert rows["overload_goodput"].value == 0.9
    assert rows["overload_late_answers"].value == 5
    assert rows["overload_offered"].value == 20.0
    assert rows["overload_reject_p99_ms"].value == 1.0


def test_an_overload_that_ran_out_of_users_shows() -> None:
    measured = Measured(seconds=1.0, answered_ms=[10.0], late_ms=[0.5], num_asked=1)
    assert not by_name(overloaded(measured, capacity_per_s=1.0))["overload_s"].meets_must


def test_swaps_are_judged_by_the_worst_of_their_answers() -> None:
    rows = by_name(swapped(Swapped(num_swaps=99, num_failures=1, steady_p99_ms=10.0, swap_p99_ms=14.0, swap_s=0.5)))
    assert rows["disjoint_swap_p99_ratio"].value == 1.4
    assert [metric for metric, row in rows.items() if not row.meets_must] == ["swap_failures", "swaps"]


def test_the_framework_is_judged_by_the_median_of_pairs() -> None:
    pairs = [FrameworkPair(0.06, 0.03), FrameworkPair(0.40, 0.20), FrameworkPair(0.09, 0.03)]
    rows = by_name(framework_rows(pairs, [FrameworkPair(0.05, 0.04)]))
    assert rows["framework_over_uvicorn"].value == 2.0
    assert not rows["framework_over_uvicorn"].meets_must
    assert rows["framework_cpu_ms"].value == 0.09
    assert rows["framework_known_cpu_ms"].value == 0.05
    assert rows["framework_over_uvicorn_known"].value == pytest.approx(1.25)
