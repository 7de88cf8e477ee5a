"""The public client, as it is on PyPI, against a real server: a hundred calls, the classes of its errors, and bad uploads."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from service.behaviorgpt.adapter import reason_off
from service.behaviorgpt.sections import Group, sections_of
from service.histories.history import HistoryUnavailable, UserHistory
from service.release.loaded import LoadedRelease
from service.release.served_map import serve_map
from service.settings import Settings
from service.uploads.file_format import COLUMNS
from service.uploads.folder import CatalogueFolder, job_id_of
from service.uploads.jobs import JobRunner
from tests.service.conftest import Client, MemoryHistory
from tests.service.key_files import bearer, entry, write_keys
from tests.service.uploads.files import catalogue, written
from twotower.maps.item_map import ItemMap, MapInfo

behaviorgpt = pytest.importorskip("behaviorgpt", reason="the client is not installed")

from benchmarks.client_calls.calls import CALLS  # noqa: E402 # it needs the client
from benchmarks.client_calls.replies import Problems, made_by_async_client, made_by_sync_client  # noqa: E402


@pytest.fixture(scope="module")
def by_sync_client(address: str, shop_file: Path) -> Problems:
    return made_by_sync_client(address, shop_file)


@pytest.fixture(scope="module")
def by_async_client(address: str, shop_file: Path, by_sync_client: Problems) -> Problems:
    return made_by_async_client(address, shop_file)


@pytest.mark.parametrize("name", [call.name for call in CALLS])
def test_a_call_of_the_client_passes(name: str, by_sync_client: Problems) -> None:
    assert by_sync_client[name] == ""


@pytest.mark.parametrize("name", [call.name for call in CALLS])
def test_a_call_of_the_async_client_passes(name: str, by_async_client: Problems) -> None:
    assert by_async_client[name] == ""


@pytest.fixture
def client_of_server(address: str) -> Iterator[Any]:
    client = behaviorgpt.UnboxAIClient("us", api_key="any", base_url=f"{address}/v1")
    yield client
    client.recommendations._client.close()  # it has no method for that


def upload(address: str, content: bytes, name: str = "file") -> httpx.Response:
    return httpx.post(f"{address}/v1/embed-catalog", files={name: ("shop.parquet", content)}, timeout=30)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(catalogue(**columns), sink)
    return sink.getvalue()


def without_a_column() -> bytes:
    sink = io.BytesIO()
    pq.write_table(catalogue(id=["a"], name=["x"]).drop_columns(["brand", "price"]), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"id,name\n1,tea\n", 400, "not a Parquet file"),
        (b"PAR1" + bytes(1000), 400, "not a Parquet file"),
        (parquet(id=["a"], name=["x"])[:-8], 400, "not a Parquet file"),
        (without_a_column(), 400, "the column brand is missing; the column price is missing"),
        (parquet(id=[], name=[]), 400, "no rows"),
        (b"PAR1" + bytes(3 << 20), 413, "at most 1 MB"),
    ],
    ids=["csv", "no footer", "cut", "columns", "empty", "large"],
)
def test_an_upload_that_is_no_catalogue_is_refused_in_a_sentence_and_nothing_is_kept(
    content: bytes, status: int, says: str, address: str
) -> None:
    before = httpx.get(f"{address}/v1/catalogs").json()
    refused = upload(address, content)
    assert (refused.status_code, says in refused.json()["detail"]) == (status, True), refused.text
    assert httpx.get(f"{address}/v1/catalogs").json() == before


def test_a_file_of_any_size_is_refused_while_it_comes(address: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nPAR1'
        for _ in range(10_000):  # 10 GB
            sent += 1 << 20
            yield bytes(1 << 20)

    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = httpx.post(f"{address}/v1/embed-catalog", content=endless(), headers=headers, timeout=30)
    assert answer.status_code == 413
    assert sent < 100 << 20


def test_a_job_that_fails_says_why_and_leaves_the_catalogue_failed(address: str, client_of_server: Any) -> None:
    client = client_of_server
    started = upload(address, parquet(id=["a", "b"], name=["", ""])).json()
    with pytest.raises(behaviorgpt.UnboxAIError, match="none of the 2 rows can be used: name is missing"):
        client.catalogs.wait_for_job(started["job_id"], interval=0.1)
    with pytest.raises(behaviorgpt.UnboxAIError, match="could not be embedded") as missing:
        client.complete([], catalog_id=started["catalog_id"])
    assert missing.value.status_code == 404
    assert [s.status for s in client.list_catalogs() if s.catalog_id == started["catalog_id"]] == ["failed"]
    client.delete_catalog(started["catalog_id"])


@pytest.fixture
def ranked(connect: Callable[..., Client], tmp_path: Path) -> Client:
    """A server in this process, with keys that may do different things."""
    return connect(behaviorgpt=True, behaviorgpt_dir=str(tmp_path / "catalogues"))


def ask(client: Client, path: str = "recommendations", **body: Any) -> httpx.Response:
    return client.post(f"/v1/vector/{path}", {"store_id": "retail_catalog", "domains": {"market": "us"}, **body})


def viewed(*items: str, **more: Any) -> list[dict[str, Any]]:
    return [{"event": {"type": "viewItem", "product": item}, "timestamp": "2026-01-01T00:00:00Z", **more} for item in items]


def test_events_to_store_are_stored_once_however_often_the_history_is_sent(ranked: Client) -> None:
    for items in (["item-1"], ["item-1", "item-2"], ["item-1", "item-2"], ["item-2", "item-3"]):
        assert ask(ranked, user_id="ann", history=viewed(*items), register_event=True).status_code == 200
    stored = ranked.get("/v1/users/ann").json()["events"]
    assert [(e["event_type"], e["item_id"]) for e in stored] == [("view", f"item-{n}") for n in (1, 2, 3)]


class Counted(MemoryHistory):
    """A store that counts how often it is read, and can stop to answer that."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads, self.is_down = 0, False

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        self.num_reads += 1
        if self.is_down:
            raise HistoryUnavailable("down")
        return await super().read(user_id, known)


def test_a_request_reads_the_history_once(connect: Callable[..., Client], tmp_path: Path) -> None:
    store = Counted()
    client = connect(store, behaviorgpt=True, behaviorgpt_dir=str(tmp_path / "catalogues"))
    for num_asked, items in enumerate((["item-1"], ["item-1", "item-2"], ["item-1", "item-2"]), 1):
        assert ask(client, user_id="ann", history=viewed(*items), register_event=True).status_code == 200
        assert store.num_reads == num_asked


def test_events_are_not_stored_while_it_is_unknown_which_are(connect: Callable[..., Client], tmp_path: Path) -> None:
    store = Counted()
    client = connect(store, behaviorgpt=True, behaviorgpt_dir=str(tmp_path / "catalogues"))
    ask(client, user_id="ann", history=viewed("item-1"), register_event=True)
    store.is_down = True
    refused = ask(client, user_id="ann", history=viewed("item-1"), register_event=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "history_unavailable")
    assert ask(client, user_id="ann", history=viewed("item-1")).status_code == 200
    store.is_down = False
    assert client.get("/v1/users/ann").json()["num_events"] == 1


def test_a_request_that_is_refused_stores_nothing(ranked: Client) -> None:
    assert ask(ranked, user_id="ann", history=viewed("item-1", "x" * 200), register_event=True).status_code == 400
    assert ranked.get("/v1/users/ann").json()["num_events"] == 0


def test_events_that_are_stored_by_a_request_count_in_its_ranking(ranked: Client) -> None:
    history = viewed("item-1", "item-2")
    stored, sent = (ask(ranked, user_id=f"{flag}", history=history, register_event=flag).json() for flag in (True, False))
    pages = [answer["products"]["items"] for answer in (stored, sent)]
    assert [item["id"] for item in pages[0]] == [item["id"] for item in pages[1]]
    assert [item["score"] for item in pages[0]] == pytest.approx([item["score"] for item in pages[1]], abs=1e-4)  # now is later


def test_a_query_of_a_search_is_stored_too(ranked: Client) -> None:
    ask(ranked, "search", user_id="ann", history=viewed("item-1"), query="green tea", register_event=True)
    stored = ranked.get("/v1/users/ann").json()["events"]
    assert [(e["event_type"], e["item_id"], e["query"]) for e in stored] == [
        ("view", "item-1", None),
        ("search", None, "green tea"),
    ]


def test_a_history_that_is_stored_already_is_not_read_twice(ranked: Client) -> None:
    history = viewed("item-1", "item-2")
    ask(ranked, user_id="ann", history=history, register_event=True)
    stored, sent = ask(ranked, user_id="ann").json(), ask(ranked, user_id="ann", history=history).json()
    assert [item["id"] for item in stored["products"]["items"]] == [item["id"] for item in sent["products"]["items"]]


def test_without_a_user_nothing_is_stored(ranked: Client) -> None:
    assert ask(ranked, history=viewed("item-1"), register_event=True).status_code == 200
    assert ranked.get("/v1/users?limit=5").json().get("users", []) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"offset": 9_950, "limit": 100}, "may be at most 10,000"),
        ({"history": [{"event": {"type": "dance"}}]}, "type"),
        ({"history": "none"}, "history"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "a\0b"}, "NUL"),
        ({"history": viewed("x\0y")}, "NUL"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"history": [{**viewed("item-1")[0], "timestamp": "1200-01-01T00:00:00Z"}]}, "1980 to 2100"),
        ({"filters": {"colour": 1}}, "no attribute 'colour'"),
    ],
)
def test_a_bad_request_is_400_with_a_sentence(body: dict[str, Any], says: str, ranked: Client) -> None:
    refused = ask(ranked, **body)
    assert refused.status_code == 400
    assert says in refused.json()["detail"]
    assert refused.json()["error"]["message"] == refused.json()["detail"]


def test_an_answer_may_reach_deeper_than_a_page_of_our_own(ranked: Client) -> None:
    first = ask(ranked, limit=100).json()["products"]["items"]
    last = ask(ranked, limit=100, offset=300).json()["products"]["items"]
    assert len({item["id"] for item in (*first, *last)}) == 200


def test_keys_and_limits_raise_the_errors_that_the_client_has_classes_for(connect: Callable[..., Client], tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", entry("reader", "recommend", rate=0.001, burst=2))
    client = connect(behaviorgpt=True, behaviorgpt_dir=str(tmp_path / "catalogues"), keys=keys)
    reader = bearer("reader")["authorization"].removeprefix("Bearer ")

    def post(key: str, **more: Any) -> httpx.Response:
        return client.request("POST", "/v1/vector/recommendations", json={"limit": 1, **more}, headers={"x-api-key": key})

    assert post("nobody.wrong").status_code == 401
    assert "valid API key" in post("nobody.wrong").json()["detail"]
    uploaded = client.request("POST", "/v1/embed-catalog", headers={"x-api-key": reader})
    assert (uploaded.status_code, uploaded.json()["detail"]) == (403, "this needs the scope admin, which this key lacks")
    assert post(reader).status_code == 200
    stored = post(reader, user_id="ann", history=viewed("item-1"), register_event=True)
    assert (stored.status_code, stored.json()["detail"]) == (403, "this needs the scope events:write, which this key lacks")
    late = post(reader)
    assert (late.status_code, "retry-after" in late.headers) == (429, True)


def test_sections_are_made_beside_the_event_loop(ranked: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noted(*arguments: Any) -> list[Group]:
        threads.append(threading.current_thread())
        return sections_of(*arguments)

    monkeypatch.setattr("service.behaviorgpt.ranking.sections_of", noted)
    assert ask(ranked, "sections").json()["sections"]
    assert threads != [threading.main_thread()]


def test_a_server_without_the_option_has_none_of_these_routes(client: Client) -> None:
    assert ask(client).status_code == 404
    assert "detail" not in ask(client).json()


def test_a_server_whose_model_runs_elsewhere_takes_no_uploads(tiny_store: Path) -> None:
    assert "--engine thread" in str(reason_off(Settings(store=tiny_store, engine="process")))
    assert reason_off(Settings(store=tiny_store)) is None


def test_a_server_that_takes_no_uploads_leaves_those_of_others_alone(
    connect: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CatalogueFolder.open(tmp_path / "catalogues", alone=True)
    file = written(folder.uploading(), catalogue(id=["a"], name=["x"]))
    state, job = folder.create("shop", None, file, False, most=1)
    monkeypatch.setattr("service.behaviorgpt.adapter.find_spec", lambda _: None)
    ran: list[JobRunner] = []
    monkeypatch.setattr(JobRunner, "run_forever", lambda runner: ran.append(runner))
    client = connect(behaviorgpt=True, behaviorgpt_dir=str(folder.root))
    assert [told["catalog_id"] for told in client.get("/v1/catalogs").json()["catalogs"]] == ["retail_catalog"]
    refused = [
        client.request("DELETE", f"/v1/catalogs/{state.catalog_id}"),
        client.get(f"/v1/embed-catalog/{job_id_of(state, job)}"),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [(501, "uploads_off")] * 2
    assert ask(client, store_id=state.catalog_id).status_code == 404
    assert (folder.states(), ran) == ([state], [])


def test_a_server_that_takes_no_uploads_makes_no_folder(
    connect: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.behaviorgpt.adapter.find_spec", lambda _: None)
    connect(behaviorgpt=True, behaviorgpt_dir=str(tmp_path / "catalogues"))
    assert not (tmp_path / "catalogues").exists()


def test_a_bug_of_ours_is_not_called_a_bad_request(ranked: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("service.behaviorgpt.ranking.events_of", fail)
    with pytest.raises(ValueError, match="unpack"):  # a server answers it with 500, and logs it
        ask(ranked)


def test_every_error_has_its_message_in_detail_those_of_events_too(ranked: Client) -> None:
    refused = ranked.post("/v1/events", {"events": [{"event_type": "view"}]}).json()
    assert refused["detail"] == refused["error"]["message"]
    assert len(refused["rejected"]) == 1


def test_a_user_whose_id_ends_like_another_path_is_that_user(ranked: Client) -> None:
    assert ranked.get("/v1/users/ann/umap").json()["user_id"] == "ann/umap"


def test_the_columns_of_an_upload_are_those_that_the_client_checks() -> None:
    from behaviorgpt.resources.catalogs import CATALOG_SCHEMA

    assert dict(COLUMNS) == CATALOG_SCHEMA


def test_the_map_of_the_served_catalogue_is_a_page_and_others_have_none(
    settings: Settings, release: LoadedRelease, tmp_path: Path
) -> None:
    drawn = ItemMap(
        np.array([7, 300], np.uint32), np.zeros((2, 2), np.uint16), np.full(2, 255, np.uint8), MapInfo(num_items=2, num_placed=0)
    )
    mapped = replace(release, item_map=serve_map(drawn, release.id, len(release)))
    changes = {"behaviorgpt": True, "behaviorgpt_dir": tmp_path}
    for served, status in ((mapped, 200), (release, 404)):
        with Client(settings.model_copy(update=changes), served, MemoryHistory()) as client:
            answer = client.get("/v1/retail_catalog/umap")
            assert (answer.status_code, client.get("/v1/other/umap").status_code) == (status, 404)
            assert answer.text.startswith("<!doctype html>" if status == 200 else '{"')
