import math

import pytest

from loadtests.capacity import Probe, capacity, probe_of, quantile
from loadtests.generator import Measured


class Bears:
    """A server whose p99 is 4 ms for each connection."""

    def __init__(self, ms_per_connection: float = 4.0) -> None:
        self.ms_per_connection = ms_per_connection
        self.tried: list[int] = []

    def __call__(self, connections: int, expected_per_s: float) -> Probe:
        self.tried.append(connections)
        return Probe(
            connections=connections,
            requests_per_s=100.0 * min(connections, 10),
            p50_ms=1.0,
            p99_ms=self.ms_per_connection * connections,
            cpu_ms=1.0,
            generator_cpu_ms=0.1,
        )


def test_the_capacity_is_found_by_doubling_and_halving() -> None:
    server = Bears()
    assert capacity(server, limit_ms=50.0).requests_per_s == 1000.0
    assert server.tried == [1, 2, 4, 8, 16, 12, 14]


def test_a_server_that_keeps_the_limit_is_not_asked_for_ever() -> None:
    server = Bears(ms_per_connection=0.0)
    capacity(server, limit_ms=50.0, most=20)
    assert server.tried == [1, 2, 4, 8, 14, 17]


def test_a_server_that_breaks_the_limit_alone_is_credited_with_that() -> None:
    server = Bears(ms_per_connection=60.0)
    assert capacity(server, limit_ms=50.0).p99_ms == 60.0
    assert server.tried == [1]


def test_a_closed_loop_is_judged_by_what_was_answered() -> None:
    measured = Measured(seconds=2.0, answered_ms=[1.0, 2.0, 3.0, 4.0], num_asked=5, cpu_s=0.01)
    probe = probe_of(measured, 1, cpu_s=0.05)
    assert probe.requests_per_s == 2.0
    assert (probe.p50_ms, probe.p99_ms) == (2.0, 4.0)
    assert (probe.cpu_ms, probe.generator_cpu_ms) == (10.0, 2.0)


def test_refusing_is_no_way_to_keep_the_limit() -> None:
    assert probe_of(Measured(seconds=1.0, answered_ms=[1.0], refused_ms=[0.1], num_asked=2), 1, 0.0).p99_ms == math.inf
    assert probe_of(Measured(seconds=1.0, answered_ms=[1.0], num_failed=1, num_asked=2), 1, 0.0).p99_ms == math.inf


def test_a_loop_without_an_answer_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="no answer among 3 requests"):
        probe_of(Measured(seconds=1.0, num_asked=3), 1, 0.0)


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([1.0, 2.0, 3.0, 100.0], 0.99) == 100.0
    assert quantile([1.0, 2.0, 3.0, 100.0], 0.50) == 2.0
