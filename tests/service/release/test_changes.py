"""Items put and deleted while a release is served, asked for over HTTP."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from embedder_cache.build import build_release
from service.histories.history import UserHistory
from service.release.changes import popularity_of_new_items, with_item_changes
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory
from tests.twotower.index.faiss_gpu import pretend_that_the_cpu_is_a_gpu
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.item_changes import Changes, DeltaStore, read_delta
from twotower.data import new_items
from twotower.index.kinds import EXACT, GPU_KINDS, Kind

NEW: dict[str, Any] = {
    "item_id": "new",
    "title": "sweet olives",
    "department": "aisle 9",
    "tags": ["sweet", "large"],
    "price": 2.5,
    "released": "2025-04-30T12:00:00Z",
    "image": [0.5, 0, 1, 0, 0, -0.25, 0, 1],
}
NEWEST = 'department == "aisle 9"'


@pytest.fixture(scope="module")
def catalogue(tiny_shop: Path) -> pa.Table:
    return pq.read_table(tiny_shop / "items.parquet")


@pytest.fixture(scope="module")
def nightly(tiny_bundle: Path, tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedRelease]:
    """The release that the nightly job makes; without events, so that popularity is as the bundle has it."""

    def nightly(
        items: Path = tiny_shop / "items.parquet", store: Path | None = None, delta: str | None = None, index: Kind = "flat"
    ) -> LoadedRelease:
        store = store or tmp_path_factory.mktemp("store")
        changes = read_delta(delta) if delta else Changes()
        build_release(load_bundle(tiny_bundle), items, store, None, forced="a test", index=index, delta=changes)
        return load_release(store)

    return nightly


@pytest.fixture(scope="module")
def plain(nightly: Callable[..., LoadedRelease]) -> LoadedRelease:
    return nightly()


Shop = Callable[..., Client]


@pytest.fixture
def shop(settings: Settings, plain: LoadedRelease, tmp_path: Path) -> Iterator[Shop]:
    """Starts a server; the one before it, which had the same file of changes, is stopped."""
    running: list[Client] = []

    def start(release: LoadedRelease = plain, histories: dict[str, UserHistory] | None = None, **changes: Any) -> Client:
        for client in running:
            client.__exit__(None, None, None)
        history = MemoryHistory()
        history.users = histories or {}
        changed = Settings(**(settings.model_dump() | changes))
        running[:] = [Client(changed, release, history, DeltaStore(tmp_path / "delta.db")).__enter__()]
        return running[0]

    yield start
    for client in running:
        client.__exit__(None, None, None)


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def everything(client: Client, **body: Any) -> list[str]:
    return ids(client.recommend(num_results=500, **body))


def view(item: str) -> dict[str, Any]:
    return {"item_id": item, "event_type": "view", "timestamp": "2025-05-01T12:00:00Z"}


def test_an_item_that_is_put_is_found_by_the_next_request_of_every_kind(shop: Shop) -> None:
    client = shop()
    assert client.put_items(NEW) == {"accepted": 1, "rejected": []}

    assert "new" in everything(client)
    assert ids(client.recommend(filter=NEWEST)) == ["new"]
    assert ids(client.recommend(candidate_item_ids=["new"])) == ["new"]
    assert "new" not in everything(client, exclude_item_ids=["new"])
    (item,) = client.recommend(filter=NEWEST, include_metadata=["title", "price"])["items"]
    assert item["metadata"] == {"title": "sweet olives", "price": 2.5}
    description = {name: value for name, value in NEW.items() if name != "item_id"}
    similar = client.post("/v1/similar", {"item": {"item_id": "new", **description}}).json()["items"]
    assert (similar[0]["item_id"], similar[0]["score"]) == ("new", pytest.approx(1))
    assert "new" in ids(client.post("/v1/similar", {"item_id": "item-1", "num_results": 500}).json())
    assert "new" not in ids(client.post("/v1/similar", {"item_id": "new", "num_results": 500}).json())


@pytest.mark.parametrize("by_content", [False, True])
def test_an_item_is_put_with_its_id_or_without_as_those_of_the_release_are(plain: LoadedRelease, by_content: bool) -> None:
    base = replace(plain, info=msgspec.structs.replace(plain.info, by_content=by_content))
    features = {"title": "sweet olives", "price": 2.5}
    added = with_item_changes(base, {"one": features, "two": features}).added
    assert added is not None
    one_V, two_V = added.vectors_AV
    assert torch.equal(one_V, two_V) == by_content


def test_events_of_an_item_that_is_put_are_read(shop: Shop) -> None:
    client = shop()
    before = client.recommend(events=[view("new")])
    client.put_items(NEW)
    after = client.recommend(events=[view("new")])
    assert (before["events_used"], before["missing_item_ids"]) == (0, ["new"])
    assert (after["events_used"], after["missing_item_ids"]) == (1, [])
    assert before["items"] != after["items"]
    assert "new" not in everything(client, events=[view("new")], exclude_seen=True)


def test_a_deleted_item_is_never_returned_again_and_is_no_item(shop: Shop) -> None:
    client = shop()
    best = ids(client.recommend())[0]
    client.put_items(NEW)
    assert client.delete_items(best, "new", "unheard of") == {"accepted": 3, "rejected": []}

    for body in ({}, {"events": [view(best), view("new")]}, {"candidate_item_ids": [best, "new"]}, {"filter": NEWEST}):
        assert not {best, "new"} & set(everything(client, **body))
    assert client.recommend(events=[view(best)])["missing_item_ids"] == [best]
    assert len(everything(client)) == 399
    assert client.post("/v1/similar", {"item_id": best}).status_code == 404
    assert best not in ids(client.post("/v1/similar", {"item_id": "item-1", "num_results": 500}).json())


def test_an_item_that_is_put_again_is_the_new_one_alone(shop: Shop, plain: LoadedRelease) -> None:
    client = shop()
    for title in ("first", "second"):
        client.put_items(NEW | {"item_id": "item-1", "title": title})
    (found,) = client.recommend(filter=NEWEST, include_metadata=["title"])["items"]
    assert (found["item_id"], found["metadata"]) == ("item-1", {"title": "second"})
    assert sorted(everything(client)) == sorted(plain.item_ids)
    client.delete_items("item-1")
    assert "item-1" not in everything(client)
    client.put_items(NEW | {"item_id": "item-1"})
    assert everything(client).count("item-1") == 1


def test_what_is_served_of_an_item_can_be_asked_for(shop: Shop, plain: LoadedRelease) -> None:
    client = shop()
    client.put_items(NEW | {"item_id": "a/b"})
    found = client.get("/v1/items/a%2Fb").json()
    assert (found["item_id"], found["source"], found["release"]) == ("a/b", "delta", plain.id)
    assert found["metadata"]["tags"] == ["sweet", "large"]
    assert client.get("/v1/items/item-1").json()["source"] == "release"
    client.delete_items("item-1")
    assert client.get("/v1/items/item-1").json()["error"]["code"] == "not_found"
    assert client.get("/v1/items/" + "x" * 129).status_code == 422


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"title": "no id"}, "item_id"),
        ({"item_id": 5}, "item_id"),
        ({"item_id": ""}, "1 to 128"),
        ({"item_id": "é" * 65}, "1 to 128"),
        ({"item_id": "a", "colour": "red"}, "no feature 'colour'"),
        ({"item_id": "a", "price": "cheap"}, "'price' must be double"),
        ({"item_id": "a", "released": "yesterday"}, "'released' must be timestamp"),
        ({"item_id": "a", "tags": 5}, "'tags' must be"),
        ({"item_id": "a", "image": [1.0, 2.0]}, "'image' is not of length 8"),
        ({"item_id": "a", "image": [1, 2, 3, 4, 5, 6, 7, None]}, "'image' holds a value that is not finite"),
        ({"item_id": "a", "image": [1e300] * 8}, "'image'"),
        ({"item_id": "a", "title": {"en": "a"}}, "got `object` (field [...])"),
        ("no item", "object"),
    ],
)
def test_an_item_that_cannot_be_put_is_rejected_and_the_others_are_not(shop: Shop, item: Any, reason: str) -> None:
    client = shop()
    answer = client.put_items(NEW, item, {"item_id": "bare"})
    assert answer["accepted"] == 2
    assert [r["index"] for r in answer["rejected"]] == [1]
    assert reason in answer["rejected"][0]["reason"]
    assert {"new", "bare"} <= set(everything(client))


def test_an_item_that_is_not_json_is_rejected_alone(shop: Shop) -> None:
    client = shop()
    body = b'{"items": [{"item_id": "\xff"}, {"item_id": "a", "price": 1e999}, {"item_id": "b"}]}'
    answer = client.request("PUT", "/v1/items", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert [r["index"] for r in answer.json()["rejected"]] == [0, 1]


def test_of_items_with_one_id_the_last_good_one_counts(shop: Shop) -> None:
    client = shop()
    items = [{"item_id": "a", "title": title, "price": price} for title, price in (("1", 1), ("2", 2.5), ("3", "dear"))]
    answer = client.put_items(*items, {"item_id": "b"})
    assert (answer["accepted"], [r["index"] for r in answer["rejected"]]) == (3, [2])
    assert client.get("/v1/items/a").json()["metadata"]["title"] == "2"


def test_an_id_that_cannot_be_deleted_is_rejected(shop: Shop) -> None:
    answer = shop().delete_items("item-1", "", 5)
    assert (answer["accepted"], [r["index"] for r in answer["rejected"]]) == (1, [1, 2])


def test_more_than_may_change_is_refused_and_nothing_of_it_is_kept(shop: Shop) -> None:
    client = shop(max_delta_items=2)
    client.put_items({"item_id": "a"})
    refused = client.send("PUT", "/v1/items", {"items": [{"item_id": "b"}, {"item_id": "c"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "delta_full")
    assert "twotower embed --delta" in refused.json()["error"]["message"]
    client.put_items({"item_id": "a", "price": 1.0})
    client.delete_items("item-1")
    assert client.send("DELETE", "/v1/items", {"item_ids": ["item-2"]}).status_code == 507
    assert {"a", "b", "c", "item-1", "item-2"} & set(everything(client)) == {"a", "item-2"}
    assert client.send("PUT", "/v1/items", {"items": [{"item_id": "a"}] * 1001}).status_code == 422


def test_without_a_file_for_them_changes_are_refused_and_items_are_shown(client: Client) -> None:
    for method, body in (("PUT", {"items": [NEW]}), ("DELETE", {"item_ids": ["item-1"]})):
        refused = client.send(method, "/v1/items", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (501, "delta_off")
    assert client.get("/v1/items/item-1").status_code == 200


def test_a_change_that_is_not_stored_is_not_served(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    client = shop()
    monkeypatch.setattr(DeltaStore, "write", full_disk)
    refused = client.send("PUT", "/v1/items", {"items": [NEW]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "delta_unavailable")
    assert "new" not in everything(client)


def test_a_restart_serves_the_same(shop: Shop, histories: dict[str, UserHistory]) -> None:
    client = shop(histories=histories)
    client.put_items(NEW, NEW | {"item_id": "item-2"}, NEW | {"item_id": "twin"})
    client.delete_items("item-3")
    client.put_items(NEW)  # again: of equal items the one that changed last comes last
    before = [client.recommend(user_id=u, num_results=500, timestamp=1_746_057_600_000)["items"] for u in sorted(histories)[:4]]
    again = shop(histories=histories)
    after = [again.recommend(user_id=u, num_results=500, timestamp=1_746_057_600_000)["items"] for u in sorted(histories)[:4]]
    assert [[i["item_id"] for i in a] for a in after] == [[i["item_id"] for i in b] for b in before]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose([i["score"] for i in a], [i["score"] for i in b], atol=1e-5)


def test_changes_and_their_outcomes_are_counted(shop: Shop) -> None:
    client = shop()
    client.put_items(NEW, {"item_id": ""})
    client.delete_items("item-1", "item-2")
    metrics = client.get("/metrics").text
    assert 'twotower_item_changes_total{method="put",outcome="accepted"} 1.0' in metrics
    assert 'twotower_item_changes_total{method="put",outcome="rejected"} 1.0' in metrics
    assert 'twotower_item_changes_total{method="delete",outcome="accepted"} 2.0' in metrics
    assert 'twotower_delta_items{kind="put"} 1.0' in metrics
    assert 'twotower_delta_items{kind="deleted"} 2.0' in metrics


def test_no_request_sees_half_a_change(shop: Shop) -> None:
    """Each change renames three items at once: every answer has three of one name."""
    client = shop()
    names = [f"batch {n}" for n in range(12)]

    def batch(name: str) -> dict[str, Any]:
        return {"items": [{"item_id": f"i{i}", "title": name, "department": "aisle 9"} for i in range(3)]}

    async def both() -> list[list[str]]:
        async def ask() -> list[str]:
            body = {"filter": NEWEST, "include_metadata": ["title"], "num_results": 10}
            return [i["metadata"]["title"] for i in (await client.http.post("/v1/recommend", json=body)).json()["items"]]

        await client.http.put("/v1/items", json=batch("batch 0"))
        puts = [client.http.put("/v1/items", json=batch(name)) for name in names]
        results = await asyncio.gather(*(call for put in puts for call in (put, ask(), ask())))
        return [result for result in results if isinstance(result, list)]

    for seen in client.run(both()):
        assert (len(seen), len(set(seen))) == (3, 1)


@pytest.mark.parametrize("index", ["flat", "int8", "ivfpq", *GPU_KINDS])
def test_release_and_delta_answer_as_the_nightly_build_of_the_same_catalogue(
    shop: Shop,
    nightly: Callable[..., LoadedRelease],
    catalogue: pa.Table,
    histories: dict[str, UserHistory],
    tmp_path: Path,
    index: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new_items, "NEIGHBOURS", 0)  # the server compares new items with the release as it was built
    pretend_that_the_cpu_is_a_gpu(monkeypatch)
    monkeypatch.setattr("twotower.index.gpu.FEWEST_LINKED", 100)
    rows = catalogue.to_pylist()
    deleted, replaced = [r["item_id"] for r in rows[:40:2]], [r["item_id"] for r in rows[1:40:2]]
    put = [NEW | {"item_id": i, "price": 0.5 + n} for n, i in enumerate([*replaced, "new-1", "new-2", "new-3"])]
    kept = [r for r in rows if r["item_id"] not in {*deleted, *replaced}]
    schema = catalogue.schema
    typed = [r | {"released": datetime(2025, 4, 30, 12, tzinfo=UTC)} for r in put]
    pq.write_table(pa.concat_tables([pa.Table.from_pylist(t, schema) for t in (kept, typed)]), tmp_path / "items.parquet")
    full = nightly(tmp_path / "items.parquet", index=index)
    client = shop(nightly(index=index), histories)
    client.put_items(*put)
    client.delete_items(*deleted)
    bodies = [
        {"user_id": user, "num_results": 50, "timestamp": 1_746_057_600_000, **extra}
        for user in ["nobody", *sorted(histories)[:4]]
        for extra in ({}, {"exclude_seen": True}, {"filter": "price < 4 and department != 'aisle 1'"}, {"filter": NEWEST})
    ]
    answers = [client.recommend(**body) for body in bodies]
    whole = shop(full, histories)
    for body, answer in zip(bodies, answers, strict=True):
        expected = whole.recommend(**body)
        assert answer["missing_item_ids"] == expected["missing_item_ids"]
        if index in EXACT:
            assert_same(answer["items"], expected["items"])
        assert not set(ids(answer)) & set(deleted)
        assert len(answer["items"]) == len(expected["items"])


def test_a_new_item_is_expected_to_sell_what_the_nightly_job_expects(
    shop: Shop, nightly: Callable[..., LoadedRelease], catalogue: pa.Table, tmp_path: Path
) -> None:
    typed = NEW | {"released": datetime(2025, 4, 30, 12, tzinfo=UTC)}
    pq.write_table(pa.concat_tables([catalogue, pa.Table.from_pylist([typed], catalogue.schema)]), tmp_path / "items.parquet")
    full = nightly(tmp_path / "items.parquet")
    log_popularity_N = full.vectors_NV[:, full.towers.config.model.width]
    assert log_popularity_N[full.rows["new"]] > log_popularity_N.min() + 0.5
    client = shop()
    client.put_items(NEW)
    answer = client.recommend(num_results=500)["items"]
    assert_same(answer, shop(full).recommend(num_results=500)["items"])


def assert_same(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same scores, and the same items but for those that rounding may swap."""
    np.testing.assert_allclose([i["score"] for i in answer], [i["score"] for i in expected], atol=1e-4)
    scores = {i["item_id"]: i["score"] for i in expected}
    for item, other in zip(answer, expected, strict=True):
        assert scores.get(item["item_id"], expected[-1]["score"]) == pytest.approx(other["score"], abs=1e-4)


def test_the_nightly_build_folds_the_delta_in_and_its_release_has_none(
    shop: Shop, nightly: Callable[..., LoadedRelease], catalogue: pa.Table, tmp_path: Path
) -> None:
    client, url = shop(), f"sqlite:///{tmp_path / 'delta.db'}"
    client.put_items(NEW, NEW | {"item_id": "item-2"})
    client.delete_items("item-3")
    before = everything(client)
    folded = nightly(store=tmp_path / "store", delta=url)
    client.put_items({"item_id": "late"})  # after the nightly job read the changes

    client = shop(folded)
    assert sorted(everything(client)) == sorted([*before, "late"])
    assert client.get("/v1/items/new").json()["source"] == "release"
    assert client.get("/v1/items/item-2").json()["metadata"]["title"] == "sweet olives"
    assert 'twotower_delta_items{kind="put"} 1.0' in client.get("/metrics").text
    assert list(read_delta(url).items) == ["late"]


def test_a_rollback_of_one_step_serves_the_changes_again(
    shop: Shop, nightly: Callable[..., LoadedRelease], plain: LoadedRelease, tmp_path: Path
) -> None:
    client = shop()
    client.put_items(NEW)
    client.delete_items("item-3")
    before = everything(client)
    folded = nightly(delta=f"sqlite:///{tmp_path / 'delta.db'}")
    for release in (folded, folded, plain):
        assert sorted(everything(shop(release))) == sorted(before)


@pytest.mark.parametrize(("as_of_ms", "expected"), [(1_746_057_600_000, [-9, 0.25, 0]), (None, [-9, 0, 0])])
def test_before_anything_is_expected_a_new_item_has_the_popularity_of_one_nobody_bought_and_no_signals(
    plain: LoadedRelease, as_of_ms: int | None, expected: list[float]
) -> None:
    """Columns: popularity, a trend, a signal. Counted from events, an item nobody bought has a trend; the bundle's has none."""
    vectors_NV = torch.zeros(3, 32 + 3)
    vectors_NV[:, 32:] = torch.tensor([[-4, 1, 1], [-9, 0.25, 1], [-5, -1, 0]])
    config = msgspec.structs.replace(plain.towers.config, popularity_half_lives_days=(14.0, 90.0))
    release = replace(
        plain,
        vectors_NV=vectors_NV,
        towers=replace(plain.towers, config=config),
        info=msgspec.structs.replace(plain.info, popularity_as_of_ms=as_of_ms),
    )
    assert popularity_of_new_items(release).tolist() == expected


def test_what_was_kept_of_users_goes_with_the_release_that_was_changed(shop: Shop, plain: LoadedRelease) -> None:
    client = shop()
    client.recommend(user_id="ann", events=[view("item-1")])
    assert ("user", "ann") in plain.users
    client.put_items({"item_id": "new"})
    served = client.context.served.current
    assert (len(served.users), len(served.base.users)) == (0, 0)
