"""When a new release may take over, and when it must not. The clock is a number."""

import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.rollout.plan import CANARY, CanaryPlan
from service.rollout.trial import Trial, Verdict, watch
from service.telemetry.metrics import Metrics

NEW = "release-00000000000b"
CANARY_PLAN = CanaryPlan(percent=20, seconds=600, min_requests=10, max_error_rate=0.1, max_p99_ratio=2, min_overlap=0.5)


def trial(new: list[float], old: list[float], failed: int = 0, overlaps: list[float] | None = None) -> Trial:
    result = Trial(NEW, CANARY_PLAN, started_s=1000, overlaps=overlaps or [])
    for number, latency_s in enumerate(new):
        result.new.add(number < failed, latency_s)
    for latency_s in old:
        result.old.add(False, latency_s)
    return result


@pytest.mark.parametrize(
    ("on_trial", "early", "at_the_end"),
    [
        (trial([], []), "wait", "promote"),
        (trial([0.01] * 20, [0.01] * 20), "wait", "promote"),
        (trial([0.01] * 20, [0.01] * 20, failed=2), "wait", "promote"),
        (trial([0.01] * 20, [0.01] * 20, failed=3), "errors", "errors"),
        (trial([0.01] * 5, [0.01] * 20, failed=5), "wait", "errors"),
        (trial([0.03] * 20, [0.01] * 20), "latency", "latency"),
        (trial([0.03] * 5, [0.01] * 20), "wait", "promote"),
        (trial([0.03] * 20, [0.01] * 5), "wait", "promote"),
        (trial([], [], overlaps=[0.4] * 20), "overlap", "overlap"),
        (trial([], [], overlaps=[0.4] * 19), "wait", "overlap"),
        (trial([], [], overlaps=[0.5] * 20), "wait", "promote"),
    ],
)
def test_a_trial_ends_when_a_limit_is_broken_or_its_time_is_over(on_trial: Trial, early: Verdict, at_the_end: Verdict) -> None:
    assert on_trial.verdict(1599.9) == early
    assert on_trial.verdict(1600) == at_the_end


def test_answers_that_lack_something_count_above_those_of_the_release_before() -> None:
    poor = trial([0.01] * 20, [0.01] * 20)
    poor.new.num_degraded, poor.old.num_degraded = 2, 1
    assert poor.verdict(1001) == "degraded"
    poor.old.num_degraded = 2
    assert poor.verdict(1001) == "wait"


def test_errors_count_above_those_of_the_release_before() -> None:
    struggling = trial([0.01] * 20, [], failed=6)
    for number in range(20):
        struggling.old.add(number < 5, 0.01)
    assert struggling.verdict(1001) == "wait"


@pytest.mark.parametrize(
    ("error", "failures"),
    [(ZeroDivisionError(), 1), (ApiError("deadline_exceeded", "x"), 1), (ApiError("invalid_request", "x"), 0), (None, 0)],
)
def test_a_mistake_of_the_client_is_no_failure_of_the_release(error: Exception | None, failures: int) -> None:
    metrics, on_trial = Metrics(CollectorRegistry()), Trial(NEW, CANARY_PLAN, 0)
    for variant in (CANARY, "default"):
        try:
            with watch(variant, on_trial, metrics):
                if error:
                    raise error
        except (ZeroDivisionError, ApiError):
            pass
    for outcomes in (on_trial.new, on_trial.old):
        assert (outcomes.num_requests, outcomes.num_failed) == (1, failures)
    outcome = "failed" if failures else "answered"
    assert metrics.registry.get_sample_value("twotower_variant_requests_total", {"variant": CANARY, "outcome": outcome}) == 1


def test_a_request_of_no_trial_is_counted_by_its_variant_alone() -> None:
    metrics = Metrics(CollectorRegistry())
    with watch("a", None, metrics):
        pass
    assert metrics.registry.get_sample_value("twotower_variant_requests_total", {"variant": "a", "outcome": "answered"}) == 1
