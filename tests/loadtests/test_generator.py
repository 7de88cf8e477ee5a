import asyncio
import itertools

import pytest

from loadtests import generator
from loadtests.generator import NUM_QUESTIONS, Answer, Closed, Generator, Item, Job, Measured, Open, Tell, agree
from loadtests.traffic import History
from tests.loadtests.conftest import ITEMS, Answering, Json, ScriptedServer, well


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "WARM_S", 0.0)


def run(households: list[History], answering: Answering, *jobs: Job) -> tuple[ScriptedServer, list[Measured]]:
    server = ScriptedServer(answering)

    async def work() -> list[Measured]:
        async with server.listening() as port:
            asking = Generator(port, households)
            return [await asking.run(job) for job in jobs]

    return server, asyncio.run(work())


def test_a_visit_is_five_questions_with_one_new_event_between_two(households: list[History]) -> None:
    server, (_, measured) = run(households, well, Tell(num_users=1), Closed(work="visits", connections=1, seconds=5.0))

    first, *visit = server.asked
    assert len(first[1]["events"]) == 30
    assert [path for path, _ in visit] == ["/v1/recommend", "/v1/events"] * (NUM_QUESTIONS - 1) + ["/v1/recommend"]
    assert {body["user_id"] for path, body in visit if path == "/v1/recommend"} == {"one-0"}
    assert all(len(body["events"]) == 1 for path, body in visit if path == "/v1/events")
    assert len(measured.answered_ms) == measured.num_asked == NUM_QUESTIONS
    assert 0 < measured.seconds < 5


def test_a_stranger_asks_once(households: list[History]) -> None:
    server, (told, measured) = run(households, well, Tell(num_users=6), Closed(work="strangers", connections=2, seconds=5.0))

    users = [body["user_id"] for path, body in server.asked if path == "/v1/recommend"]
    assert len(users) == len(set(users)) == 6
    assert (told.num_fresh, measured.num_fresh) == (6, 0)


def test_a_refused_stranger_stays_fresh_and_asks_again(households: list[History]) -> None:
    answers = itertools.count()

    def refuse_every_second(path: str, body: Json) -> tuple[int, Json]:
        return (503, {}) if path == "/v1/recommend" and next(answers) % 2 else well(path, body)

    _, (_, measured) = run(
        households, refuse_every_second, Tell(num_users=5), Open(work="strangers", rate=200.0, seconds=5.0, timeout_ms=90)
    )

    assert len(measured.refused_ms) >= 2
    assert len(measured.answered_ms) + measured.num_fresh == 5
    assert len(measured.answered_ms) + len(measured.refused_ms) == measured.num_asked
    assert len(measured.late_ms) == measured.num_asked


def test_an_open_loop_asks_when_it_is_due_and_not_when_it_was_answered(households: list[History]) -> None:
    server, (measured,) = run(households, well, Open(work="inline", rate=200.0, seconds=1.0, timeout_ms=90))

    assert 140 < measured.num_asked < 260  # a Poisson process: 200, give or take four standard deviations
    assert measured.seconds == pytest.approx(1.0, abs=0.3)
    assert all(len(body["events"]) == generator.INLINE_EVENTS for _, body in server.asked)


def test_what_fails_is_counted(households: list[History]) -> None:
    answers = itertools.count()

    def sometimes(path: str, body: Json) -> tuple[int, Json]:
        degraded: Json = {"items": ITEMS, "degraded": ["history_unavailable"]}
        return [(500, {}), (200, {"items": ITEMS[:-1]}), (0, {}), (200, degraded), (200, {"items": ITEMS})][next(answers) % 5]

    _, (measured,) = run(households, sometimes, Closed(work="inline", connections=1, seconds=0.3))

    assert measured.num_failed >= 4
    assert measured.num_failed == pytest.approx(4 * len(measured.answered_ms), abs=4)


def test_an_answer_unlike_the_first_of_its_release_is_mixed(households: list[History]) -> None:
    answers = itertools.count()

    def mix_the_tenth(path: str, body: Json) -> tuple[int, Json]:
        items = list(reversed(ITEMS)) if next(answers) == 9 else ITEMS
        return 200, {"items": items, "release": "r"}

    _, (measured,) = run(households, mix_the_tenth, Closed(work="inline", connections=1, seconds=0.3))

    assert len(measured.answered_ms) > 10
    assert measured.num_mixed == 1


def answer(*items: tuple[str, float]) -> Answer:
    return Answer([Item(item_id, score) for item_id, score in items])


def test_answers_agree_when_rounding_explains_the_difference() -> None:
    first = answer(("a", 3.0), ("b", 2.0), ("c", 1.0))
    assert agree(first, answer(("a", 3.0001), ("b", 2.0), ("d", 1.0)))
    assert not agree(first, answer(("a", 3.0), ("e", 2.0), ("d", 1.0)))
    assert not agree(first, answer(("a", 3.1), ("b", 2.0), ("c", 1.0)))
