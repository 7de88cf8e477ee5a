import asyncio
import itertools

import pytest

from loadtests import crowd as module
from loadtests.crowd import Crowd, Target, capacity
from loadtests.outcomes import Fate, Outcomes
from loadtests.profiles import Habits, Phase, Profile
from loadtests.traffic import History
from tests.loadtests.conftest import ITEMS, Answering, Json, ScriptedServer, well

HABITS = Habits(cold_share=0.0)


@pytest.fixture(autouse=True)
def _no_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowd.open, "__defaults__", (None, 0.0))


def against(answering: Answering, households: list[History], work: str) -> tuple[ScriptedServer, Outcomes]:
    server = ScriptedServer(answering)

    async def run() -> Outcomes:
        async with server.listening() as port:
            crowd = Crowd.of(Target("127.0.0.1", port), households, HABITS)
            if work == "closed":
                return await crowd.closed(2, 1.5)
            return await crowd.open(Profile(name="smoke", phases=(Phase(seconds=1.0, load=0.5),)), 400.0)

    return server, asyncio.run(run())


def test_an_open_loop_sends_at_the_share_of_the_capacity(households: list[History]) -> None:
    server, outcomes = against(well, households, "open")
    assert 140 < len(outcomes.fates) < 260  # a Poisson process: 200, give or take four standard deviations
    assert len(server.asked) == len(outcomes.fates)
    assert set(outcomes.fates) == {Fate.GOOD}
    assert (outcomes.seconds, outcomes.capacity_per_s) == (1.0, 400.0)


def test_the_first_seconds_are_sent_but_do_not_count(households: list[History], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowd.open, "__defaults__", (None, 0.5))
    server, outcomes = against(well, households, "open")
    assert 0.5 < len(outcomes.fates) / len(server.asked) < 0.8  # one second of one and a half
    assert min(outcomes.at_s) >= 0


def test_a_user_tells_its_events_before_it_asks_and_never_twice(households: list[History]) -> None:
    server, _ = against(well, households, "open")
    met, told = set[str](), list[str]()
    for path, body in server.asked:
        if path == "/v1/events":
            told += [event["event_id"] for event in body["events"]]
            met.add(body["events"][0]["user_id"])
        else:
            assert body["user_id"] in met
    assert len(told) == len(set(told))
    assert len(met) > 10


def test_each_request_has_its_fate(households: list[History]) -> None:
    numbers = itertools.count()

    def sometimes(path: str, body: Json) -> tuple[int, Json]:
        if path == "/v1/events":
            return well(path, body)
        degraded: Json = {"items": ITEMS, "degraded": ["history_unavailable"]}
        return [(500, {}), (503, {}), (0, {}), (200, degraded), (200, {"items": ITEMS})][next(numbers) % 5]

    _, outcomes = against(sometimes, households, "open")
    asked = sum(outcomes.is_recommend)
    assert outcomes.count(Fate.REFUSED) == pytest.approx(asked / 5, abs=1)
    assert outcomes.count(Fate.DEGRADED) == pytest.approx(asked / 5, abs=1)
    assert outcomes.count(Fate.FAILED) == pytest.approx(2 * asked / 5, abs=2)


def test_a_closed_loop_leaves_the_first_second_out(households: list[History], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_S", 0.2)
    server, outcomes = against(well, households, "closed")
    assert 0 < len(outcomes.fates) < len(server.asked)
    assert all(0 <= at <= 1.6 for at in outcomes.at_s)


def test_a_server_that_is_not_there_is_a_failure(households: list[History]) -> None:
    crowd = Crowd.of(Target("127.0.0.1", 1), households, HABITS)
    outcomes = asyncio.run(crowd.open(Profile(name="smoke", phases=(Phase(seconds=0.2, load=1.0),)), 50.0))
    assert set(outcomes.fates) == {Fate.FAILED}


def test_an_address_is_read_or_refused() -> None:
    assert Target.at("http://shop.example:8000/") == Target("shop.example", 8000)
    for bad in ("shop.example:8000", "https://shop.example", "http://shop.example/v1"):
        with pytest.raises(ValueError, match="is not an address such as"):
            Target.at(bad)


@pytest.mark.parametrize(("bears", "found"), [(100.0, 90.5), (40.0, 38.1), (10.0, 9.5), (1e9, 6889.0)])
def test_the_capacity_is_found_by_doubling_and_bisection(bears: float, found: float) -> None:
    assert capacity(lambda rate: rate <= bears) == pytest.approx(found, rel=0.01)


def test_one_pause_of_the_machine_does_not_lower_the_capacity() -> None:
    tried: list[float] = []

    def keeps_up(rate: float) -> bool:
        tried.append(rate)
        return rate <= 700 and len(tried) != 3

    assert capacity(keeps_up) > 600
    assert tried[2] == tried[3]


def test_a_server_that_never_keeps_up_has_no_capacity() -> None:
    with pytest.raises(ValueError, match="does not keep up with 1 request per second"):
        capacity(lambda rate: False)


def test_refusing_is_no_way_to_keep_up(households: list[History]) -> None:
    assert keeps_up(well, households)
    assert not keeps_up(
        lambda path, body: (503, {}) if len(path) % 2 and body.get("timestamp", 0) % 2 else well(path, body), households
    )


def keeps_up(answering: Answering, households: list[History]) -> bool:
    server = ScriptedServer(answering)

    async def run() -> bool:
        async with server.listening() as port:
            return await asyncio.to_thread(Crowd.of(Target("127.0.0.1", port), households, HABITS).keeps_up, 50.0)

    return asyncio.run(run())
