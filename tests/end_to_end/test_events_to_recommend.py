"""Files to answers, through the commands a user types: train, embed, serve, ask, tell it one event, ask again."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.end_to_end.conftest import Nights
from training.data.popularity_snapshots import PopularitySnapshots
from training.data.read import read_data
from training.evaluation.rankers import Model, next_basket, statistics_before
from training.recipes.budget import CONTEXT_TABLE_ROWS
from twotower.artefacts.bundle import load_bundle
from twotower.model.catalogue import embed_rows, encode_items, stream_items


def twotower(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twotower.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bundle(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("end-to-end") / "bundle"
    data = [x for name in ("events", "items") for x in (f"--{name}", tiny_shop / f"{name}.parquet")]
    trained = twotower("train", "demo", *data, "--schema", tiny_shop / "schema.toml", "--out", out, "--minutes", 0.02)
    assert trained.returncode == 0, trained.stderr
    return out


@pytest.fixture(scope="module")
def url(bundle: Path, tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running service of a release of the bundle, with an empty history store."""
    directory = tmp_path_factory.mktemp("serving")
    store, items = directory / "store", tiny_shop / "items.parquet"
    embedded = twotower("embed", "--bundle", bundle, "--items", items, "--store", store)
    assert embedded.returncode == 0, embedded.stderr
    history = f"sqlite:///{directory / 'history.db'}"
    command = [sys.executable, "-m", "twotower.cli", "serve", "--store", str(store), "--port", "0", "--history", history]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        address = re.search(r"http://\S+:\d+", line)
        assert address is not None, line
        yield address.group()
    finally:
        server.terminate()
        assert server.wait(timeout=20) == 0
        server.stdout.close()


def ask(url: str, path: str, body: dict[str, object]) -> dict[str, object]:
    response = httpx.post(url + path, json=body, timeout=30)
    assert response.status_code in (200, 202), response.text
    answer: dict[str, object] = response.json()
    return answer


def test_one_event_changes_the_answer_and_every_answer_names_its_release(url: str) -> None:
    question: dict[str, object] = {"user_id": "new/person", "num_results": 8, "timestamp": 1_746_000_000_000}
    before = ask(url, "/v1/recommend", question)
    event = {
        "user_id": "new/person",
        "item_id": "item-7",
        "event_type": "purchase",
        "timestamp": 1_745_999_999_999,
        "event_id": "e1",
    }
    assert ask(url, "/v1/events", {"events": [event]})["accepted"] == 1
    assert ask(url, "/v1/events", {"events": [event]})["duplicates"] == 1
    after = ask(url, "/v1/recommend", question)
    assert before["items"] != after["items"]
    assert before["release"] == after["release"]
    assert (before["events_used"], after["events_used"]) == (0, 1)


def test_the_service_ranks_as_the_offline_evaluation_does(url: str, bundle: Path, tiny_shop: Path) -> None:
    """The same histories, the same moments: the same scores, through HTTP, SQLite and a release as through the protocol."""
    towers = load_bundle(bundle).towers
    config, items = towers.config, tiny_shop / "items.parquet"
    events = tiny_shop / "events.parquet"
    data = read_data(
        events, items, towers.schema, config.popularity_half_lives_days, CONTEXT_TABLE_ROWS, config.model.context_spec
    )
    (table,) = stream_items(items, towers.schema.items)
    vectors_ND = embed_rows(towers.embedder, encode_items(table, config.model.item_spec, config.model.table_rows)).clone()
    # Embedded without events, the release knows popularity as of the end of training.
    then = PopularitySnapshots(data.snapshots.at(np.array([data.train_until_ms])), start_ms=0, step_ms=data.end_ms + 1)
    model = Model(towers.contextualizer, config.model, vectors_ND, data.log, then)
    item_ids = data.item_ids.to_pylist()
    raw = {(r["user_id"], r["item_id"], r["timestamp"].timestamp()): r for r in pq.read_table(events).to_pylist()}
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[::10]
    assert len(queries) >= 10
    for query in queries:
        user, start = data.log.user_ids[query.user], data.log.span(query.user)[0]
        known = range(start, start + query.num_known)
        rows = [raw[user, item_ids[data.log.item_rows_E[e]], data.log.times_ms_E[e] / 1000] for e in known]
        inline = [
            {
                "item_id": row["item_id"],
                "event_type": row["event_type"],
                "timestamp": row["timestamp"].isoformat(),
                "properties": {"price_paid": row["price_paid"], "channel": row["channel"]},
            }
            for row in rows
        ]
        body: dict[str, object] = {"events": inline, "history_mode": "replace", "timestamp": query.now_ms, "num_results": 400}
        served = ask(url, "/v1/recommend", body)["items"]
        assert isinstance(served, list)
        offline_1N = torch.empty(1, len(item_ids))
        model.score([query], [statistics_before(data.log, query)], offline_1N)
        served_N = np.array([entry["score"] for entry in sorted(served, key=lambda e: item_ids.index(e["item_id"]))])
        np.testing.assert_allclose(served_N, offline_1N[0].numpy(), rtol=1e-4, atol=1e-4)


def test_refusals_are_one_line_without_a_traceback(nights: Nights, tiny_shop: Path, bundle: Path, tmp_path: Path) -> None:
    nowhere = nights.run("none", None, "serve", "--store", tmp_path / "empty")
    taken = nights.run(
        "none", None, "train", "demo", "--events", tiny_shop / "events.parquet", "--items", tiny_shop / "items.parquet",
        "--schema", tiny_shop / "schema.toml", "--out", bundle,
    )  # fmt: skip
    for refused, word in ((nowhere, "twotower embed"), (taken, "exists already")):
        assert refused.status == 2
        assert word in refused.said
        assert "Traceback" not in refused.said


def test_results_are_json_when_asked_for(bundle: Path, tiny_shop: Path) -> None:
    data = [x for name in ("events", "items") for x in (f"--{name}", tiny_shop / f"{name}.parquet")]
    evaluated = twotower("evaluate", "--bundle", bundle, *data, "--protocol", "leave-one-out", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads(evaluated.stdout)
    assert result["protocol"] == "leave-one-out"
    assert set(result["rankers"]) == {"model", "popularity", "personal_frequency"}
