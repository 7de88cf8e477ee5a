"""Both clients against a real server, with and without trouble on the way."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

import twotower_client
from tests.clients.python.twotower_client.both import Awaited
from tests.clients.trouble import Trouble
from tests.service.faults.processes import Running, serving
from tests.service.key_files import entry, write_keys
from twotower_client import Retries, answers

NOW_MS = 1_746_057_600_000  # the day after the tiny shop's events end
Connect = Callable[..., Any]


def event(user_id: str, item_id: str = "item-1", **more: Any) -> Any:
    return {"user_id": user_id, "item_id": item_id, "event_type": "purchase", "timestamp": NOW_MS} | more


@pytest.fixture(params=[twotower_client.Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind; they are closed in the end."""
    opened: list[Any] = []

    def connect(*arguments: Any, **options: Any) -> Any:
        opened.append(request.param(*arguments, **options))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Connect, server: Running) -> Any:
    return connect(server.address)


@pytest.fixture(scope="module")
def keyed(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with API keys: `web` may recommend every other second, `writer` may send events."""
    directory = tmp_path_factory.mktemp("keyed")
    keys = write_keys(directory / "keys.toml", entry("web", "recommend", rate=0.5, burst=1), entry("writer", "events:write"))
    with serving(tiny_store, directory / "history.db", "--keys", str(keys)) as running:
        yield running


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of the test's own."""
    return str(request.node.name)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the clients would have slept; they do not."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("twotower_client.client.time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    monkeypatch.setattr("twotower_client.async_client.asyncio", SimpleNamespace(sleep=sleep))
    return slept


@pytest.fixture(scope="session")
def items(tiny_shop: Path) -> list[str]:
    return list(map(str, pq.read_table(tiny_shop / "items.parquet").column("item_id").to_pylist()))


# What the server does.


def test_an_event_is_stored_and_read_by_the_next_recommendation(client: Any, user: str, items: list[str]) -> None:
    assert client.recommend(user_id=user).history_seq == 0

    stored = client.send_event(**event(user, items[3], properties={"channel": "web"}))
    answer = client.recommend(user_id=user, num_results=3, exclude_seen=True, include_metadata=["title"])

    assert stored == answers.EventsResponse(accepted=1, duplicates=0, rejected=[])
    assert (answer.history_seq, answer.events_used, len(answer.items)) == (1, 1, 3)
    assert items[3] not in [item.item_id for item in answer.items]
    assert all(item.metadata.keys() == {"title"} for item in answer.items)
    (kept,) = client.user(user).events
    assert (kept.item_id, kept.properties) == (items[3], {"channel": "web"})


def test_any_number_of_events_is_sent_in_parts_and_a_rejected_one_keeps_its_place(client: Any, user: str) -> None:
    sent = (event(user) if index != 1050 else {"event_type": "view", "timestamp": NOW_MS} for index in range(1100))

    outcome = client.send_events(sent)

    assert (outcome.accepted, outcome.duplicates, [one.index for one in outcome.rejected]) == (1099, 0, [1050])
    assert "user_id" in outcome.rejected[0].reason
    assert client.user(user).num_events == 1099


def test_an_event_under_an_id_of_the_callers_is_stored_once(client: Any, user: str) -> None:
    client.send_event(**event(user, event_id=f"{user}-1"))

    assert client.send_event(**event(user, event_id=f"{user}-1")).duplicates == 1


def test_events_of_which_none_can_be_stored_are_an_error_with_the_reason_of_each(client: Any) -> None:
    with pytest.raises(twotower_client.AllRejected) as raised:
        client.send_events([event("u", timestamp="yesterday"), event("")])

    assert [one.index for one in raised.value.rejected] == [0, 1]
    assert raised.value.rejected[0].reason in str(raised.value)


@pytest.mark.parametrize("user_id", ["a/b", "..", ".", "ü?#%2F &", "x/../y"])
def test_an_id_may_hold_any_character(client: Any, user_id: str) -> None:
    client.send_event(**event(user_id))

    assert client.user(user_id).user_id == user_id
    assert client.delete_user(user_id) == answers.DeletedResponse(user_id=user_id, deleted_events=1)
    assert client.user(user_id).num_events == 0


def test_items_are_put_read_and_deleted(client: Any, user: str) -> None:
    assert client.put_items([{"item_id": user, "title": "new"}, {"item_id": ""}]).accepted == 1
    assert client.item(user).metadata["title"] == "new"

    assert client.delete_items(iter([user])).accepted == 1
    with pytest.raises(twotower_client.NotFound, match="the catalogue has no item"):
        client.item(user)


def test_pages_follow_until_the_end_and_no_item_comes_twice(client: Any, items: list[str]) -> None:
    pages = list(client.recommend_pages(user_id="page turner", num_results=150))

    found = [item.item_id for page in pages for item in page.items]
    assert len(found) == len(set(found)) == min(500, len(items))
    assert pages[-1].next_page_token is None


def test_a_page_is_asked_for_only_when_it_is_needed(connect: Connect, trouble: Trouble) -> None:
    next(iter(connect(trouble.url).recommend_pages(user_id="u")))

    assert len(trouble.seen) == 1


def test_a_batch_of_any_size_has_the_error_of_a_bad_request_in_its_place(client: Any) -> None:
    results = client.recommend_batch({"user_id": str(n), "num_results": 2} if n != 65 else {"num_results": 0} for n in range(70))

    assert [len(one.items) if isinstance(one, answers.RecommendResponse) else one.field for one in results] == (
        [2] * 65 + ["num_results"] + [2] * 4
    )
    assert isinstance(results[65], twotower_client.InvalidRequest)
    assert results[65].status == 422


def test_similar_items_and_scores_are_of_the_items_asked_for(client: Any, items: list[str]) -> None:
    similar = client.similar(item_id=items[0], num_results=4, exclude_item_ids=[items[1]])
    scores = client.score(user_id="u", candidate_item_ids=items[:3])

    assert len(similar.items) == 4
    assert not {items[0], items[1]} & {item.item_id for item in similar.items}
    assert {item.item_id for item in scores.items} == set(items[:3])
    assert all(item.log_probability < 0 for item in scores.items)


def test_operators_see_releases_and_move_the_pointer(client: Any) -> None:
    served = client.releases().serving

    assert client.activate_release(served).release == served
    assert client.refresh_release().serving == served
    with pytest.raises(twotower_client.NotFound):
        client.activate_release("release-of-nobody")
    with pytest.raises(twotower_client.Conflict):
        client.roll_back_release()


def test_users_and_items_are_listed_and_the_catalogue_is_described(client: Any, user: str) -> None:
    client.send_event(**event(user))

    assert [one.num_events for one in client.users(prefix=user, limit=1, after=None).users] == [1]
    assert len(client.find_items(limit=3).items) == 3
    assert client.catalogue().items > 3


def test_a_plan_and_the_health_come_as_types(client: Any) -> None:
    assert client.plan(flops=1e15, metric="ndcg@10", items=None).model.num_layers > 0
    assert client.health().status == "ok"


def test_an_error_says_which_field_is_wrong_and_has_the_request_id_of_the_log(connect: Connect, trouble: Trouble) -> None:
    with pytest.raises(twotower_client.InvalidRequest) as raised:
        connect(trouble.url).recommend(user_id="u", filter="price <")

    error = raised.value
    assert (error.status, error.code, error.field) == (422, "invalid_request", "filter")
    assert error.request_id == trouble.seen[0].request_id
    assert str(error) == f"422 invalid_request: {error.message} (field filter) [request {error.request_id}]"


def test_calls_share_a_connection(connect: Connect, trouble: Trouble) -> None:
    client = connect(trouble.url)
    for _ in range(5):
        client.health()

    assert trouble.num_connections == 1


def test_keys_scopes_and_quotas_have_errors_of_their_own(keyed: Running, waits: list[float]) -> None:
    with twotower_client.Client(keyed.address, "web.secret of web\n", retries=Retries(attempts=2)) as client:
        assert client.recommend().items
        with pytest.raises(twotower_client.QuotaExceeded) as raised:
            client.recommend()
    with twotower_client.Client(keyed.address, "writer.secret of writer") as client, pytest.raises(twotower_client.Forbidden):
        client.user("u")
    with twotower_client.Client(keyed.address, "web.wrong") as client, pytest.raises(twotower_client.Unauthorized):
        client.recommend()
    assert raised.value.retry_after_s == 2.0
    assert 2.0 <= waits[0] < 2.3


# Trouble.


def test_a_server_that_refuses_is_asked_again_after_the_time_it_names(
    connect: Connect, trouble: Trouble, waits: list[float]
) -> None:
    trouble.faults.extend(["refused", "refused"])

    assert connect(trouble.url).recommend(user_id="u").items
    assert 7.0 <= waits[0] < 7.2
    assert 7.0 <= waits[1] < 7.4
    assert len({seen.request_id for seen in trouble.seen}) == 1


def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for(connect: Connect, trouble: Trouble, waits: list[float]) -> None:
    trouble.faults.append("refused")
    trouble.retry_after = "3600"

    with pytest.raises(twotower_client.Unavailable, match="too many requests wait") as raised:
        connect(trouble.url).recommend(user_id="u")
    assert (raised.value.retry_after_s, raised.value.code, waits) == (3600.0, "overloaded", [])


@pytest.mark.parametrize("fault", ["lost", "unheard", "halved", "bad_gateway", "refused"])
def test_an_event_whose_answer_is_lost_is_sent_again_and_stored_once(
    connect: Connect, trouble: Trouble, user: str, waits: list[float], fault: Any
) -> None:
    trouble.faults.append(fault)
    client = connect(trouble.url)

    outcome = client.send_event(**event(user))

    assert outcome.accepted + outcome.duplicates == 1
    assert client.user(user).num_events == 1
    assert trouble.seen[0] == trouble.seen[1]
    assert len(waits) == 1


def test_events_that_failed_for_good_can_be_sent_later_under_their_ids(
    connect: Connect, trouble: Trouble, user: str, waits: list[float]
) -> None:
    trouble.faults.extend(["unheard"] * 2)
    client = connect(trouble.url, retries=Retries(attempts=2))

    with pytest.raises(twotower_client.NoAnswer, match="broke the connection") as raised:
        client.send_event(**event(user))
    assert client.send_events(raised.value.unsent).duplicates == 1


def test_a_rollback_that_may_have_been_done_is_not_sent_again(connect: Connect, trouble: Trouble, waits: list[float]) -> None:
    trouble.faults.append("unheard")
    with pytest.raises(twotower_client.NoAnswer) as raised:
        connect(trouble.url).roll_back_release()
    assert raised.value.was_sent
    assert len(trouble.seen) == 1


def test_a_rollback_that_was_refused_is_sent_again(connect: Connect, trouble: Trouble, waits: list[float]) -> None:
    trouble.faults.append("refused")
    with pytest.raises(twotower_client.Conflict):
        connect(trouble.url).roll_back_release()
    assert len(trouble.seen) == 2


def test_a_late_answer_is_not_waited_for(connect: Connect, trouble: Trouble, waits: list[float]) -> None:
    trouble.faults.extend(["late", "late"])
    with pytest.raises(twotower_client.TimedOut, match="did not answer in time"):
        connect(trouble.url, timeout_s=0.1, retries=Retries(attempts=2)).recommend(user_id="u")
    assert len(trouble.seen) == 2


def test_nobody_at_the_address_is_said_in_a_sentence(connect: Connect, waits: list[float]) -> None:
    with pytest.raises(twotower_client.NoAnswer, match=r"^http://127\.0\.0\.1:9 cannot be reached: ") as raised:
        connect("http://127.0.0.1:9/", retries=Retries(attempts=3)).recommend(user_id="u")
    assert not raised.value.was_sent
    assert len(waits) == 2


def test_an_answer_of_something_else_is_said_in_a_sentence(connect: Connect, trouble: Trouble, waits: list[float]) -> None:
    trouble.faults.extend(["other_json", "bad_gateway"])
    client = connect(trouble.url, retries=Retries(attempts=1))
    with pytest.raises(twotower_client.NotUnderstood, match="POST /v1/recommend is no answer that client"):
        client.recommend(user_id="u")
    with pytest.raises(twotower_client.Unavailable, match="502 and no error of twotower, but '<h1>Bad gateway</h1>': is the"):
        client.recommend(user_id="u")


def test_health_is_asked_once(connect: Connect, trouble: Trouble) -> None:
    trouble.faults.append("refused")
    with pytest.raises(twotower_client.Unavailable):
        connect(trouble.url).health()
    assert len(trouble.seen) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://shop"])
def test_an_address_without_http_is_refused_at_once(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="write it as http://HOST:PORT"):
        connect(url)


def test_what_json_cannot_hold_is_refused_before_it_is_sent(client: Any) -> None:
    with pytest.raises(ValueError, match="cannot be sent as JSON"):
        client.recommend(user_id="u", exclude_item_ids=[object()])
    with pytest.raises(ValueError, match="at least one character"):
        client.user("")


def test_a_server_that_is_killed_and_started_again_loses_no_event_and_stores_none_twice(keyed: Running, tiny_store: Path) -> None:
    """It ends the server of the tests above, whose place another process takes."""
    port, arguments = keyed.address.rpartition(":")[2], list(map(str, keyed.process.args))  # type: ignore[arg-type]
    arguments[arguments.index("--port") + 1] = port
    retries = Retries(attempts=100, longest_wait_s=0.5, total_s=60.0)
    with twotower_client.Client(keyed.address, "writer.secret of writer", retries=retries) as client:
        assert client.send_event(**event("survivor", event_id="e-1")).accepted == 1
        keyed.end(signal.SIGKILL)
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as second:
            try:
                assert client.send_events([event("survivor", event_id="e-1"), event("survivor")]) == answers.EventsResponse(
                    accepted=1, duplicates=1, rejected=[]
                )
            finally:
                second.kill()


def test_many_tasks_share_one_async_client(server: Running) -> None:
    async def ask() -> list[answers.RecommendResponse]:
        async with twotower_client.AsyncClient(server.address) as client:
            return await asyncio.gather(*(client.recommend(user_id=str(n), num_results=1) for n in range(40)))

    assert len(asyncio.run(ask())) == 40


def test_a_client_of_the_callers_own_stays_open(server: Running) -> None:
    import httpx

    with httpx.Client() as own:
        with twotower_client.Client(server.address, http=own) as client:
            client.health()
        assert not own.is_closed
