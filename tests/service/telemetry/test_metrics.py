import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.release.loaded import LoadedRelease
from service.telemetry.metrics import Metrics
from tests.service.conftest import Client


def samples(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_requests_are_counted_by_method_route_and_status(client: Client) -> None:
    client.post("/recommend", {})
    client.post("/v1/recommend", {"num_results": 0})
    client.get("/v1/users/a/b/c")
    client.get("/secret/path/1234")
    client.request("BREW", "/v1/recommend")
    counted = {
        (labels["method"], labels["route"], labels["status"]): value
        for (name, pairs), value in samples(client).items()
        if name == "http_server_request_duration_seconds_count" and (labels := dict(pairs))
    }
    assert counted == {
        ("POST", "/v1/recommend", "200"): 1,
        ("POST", "/v1/recommend", "422"): 1,
        ("GET", "/v1/users/{user_id:path}", "200"): 1,
        ("GET", "other", "404"): 1,
        ("other", "/v1/recommend", "405"): 1,
    }


def test_every_stage_of_a_request_is_timed_once(client: Client) -> None:
    client.recommend(user_id="ann")
    found = samples(client)
    for stage in ("decode", "history", "engine", "encode"):
        assert found["twotower_stage_duration_seconds_count", (("stage", stage),)] == 1


def test_what_happened_is_counted(client: Client, release: LoadedRelease) -> None:
    events = [{"user_id": "a", "item_id": "gone", "event_type": "v", "timestamp": 10**12, "event_id": "1"}] * 2 + [{}]
    client.post("/v1/events", {"events": events})
    client.recommend(user_id="a", filter="price < 0")
    found = samples(client)
    assert [found["twotower_events_total", (("outcome", o),)] for o in ("accepted", "duplicate", "rejected")] == [1, 1, 1]
    assert found["twotower_unknown_items_total", ()] == 1
    assert found["twotower_empty_results_total", ()] == 1
    assert found["twotower_degraded_total", (("reason", "filter_matches_nothing"),)] == 1
    assert found["twotower_queue_depth", ()] == 0
    assert found["twotower_requests_in_flight", ()] == 1  # the scrape itself
    info = (("release", release.id), ("vector_space", release.info.vector_space_id))
    assert found["twotower_release_info", info] == 1


def test_a_stage_that_fails_is_timed_too() -> None:
    metrics = Metrics(CollectorRegistry())
    with pytest.raises(ZeroDivisionError), metrics.stage("decode"):
        _ = 1 // 0
    assert metrics.registry.get_sample_value("twotower_stage_duration_seconds_count", {"stage": "decode"}) == 1


def test_metrics_of_two_servers_do_not_meet() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.empty.inc()
    assert second.registry.get_sample_value("twotower_empty_results_total") == 0


def test_the_process_and_the_memory_that_it_may_still_take_are_shown(client: Client) -> None:
    found = samples(client)
    assert found["process_resident_memory_bytes", ()] > 2**20
    assert found["process_start_time_seconds", ()] > 10**9
    assert found["twotower_memory_available_bytes", ()] > 2**20


def test_the_lag_of_the_event_loop_is_measured_while_the_server_lives(client: Client) -> None:
    client.run(asyncio.sleep(0.25))
    assert samples(client)["twotower_event_loop_lag_seconds_count", ()] >= 1
