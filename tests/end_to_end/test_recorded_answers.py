"""Some 1,500 requests get the answers that were recorded before: the same items in the same order, scores to 1e-6.

To record anew, after a change that is meant to change answers: RECORD_ANSWERS=1 pytest tests/end_to_end/test_recorded_answers.py
That writes golden/recorded_answers.jsonl. Read its diff before you commit it.
"""

import json
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.recorded_requests import requests
from tests.end_to_end.replay import OTHER_MACHINE, SAME_MACHINE, Answer, ask, differences, machine, replay, servers
from tests.end_to_end.sent import DAMAGED_RELEASE, FIRST_RELEASE, OTHER_RELEASE, Sent
from twotower.cli import main

GOLDEN = Path(__file__).parent / "golden" / "recorded_answers.jsonl"


class Allowed(NamedTuple):
    """A difference that was made on purpose."""

    requests: str  # names of requests, * for any text
    field: str  # path of the field, such as body.variant
    why: str


ALLOWED: tuple[Allowed, ...] = ()


@pytest.fixture(scope="module")
def answers(tiny_store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """What is answered now, by servers of a store with a second, smaller release."""
    directory = tmp_path_factory.mktemp("replay")
    store = Path(shutil.copytree(tiny_store, directory / "store"))
    first = json.loads((store / "CURRENT").read_bytes())["release"]
    pq.write_table(pq.read_table(tiny_shop / "items.parquet").slice(0, 300), directory / "items.parquet")
    embed = [
        "embed",
        "--bundle",
        tiny_bundle,
        "--items",
        directory / "items.parquet",
        "--store",
        store,
        "--force",
        "--reason",
        "a test",
    ]
    assert main([str(argument) for argument in embed]) == 0
    other = json.loads((store / "CURRENT").read_bytes())["release"]
    assert main(["releases", "activate", first, "--store", str(store)]) == 0
    damaged = Path(shutil.copytree(store / "releases" / other, store / "releases" / "release-ffffffffffff"))
    (damaged / "vectors.npy").write_bytes(b"no vectors")
    names = {FIRST_RELEASE: first, OTHER_RELEASE: other, DAMAGED_RELEASE: damaged.name}
    with servers(store, names, directory) as connections:
        _, _, listed = ask(connections["plain"], "GET", "/v1/releases", None, {})
        entry = next(entry for entry in json.loads(listed)["releases"] if entry["id"] == first)
        names |= {"<bundle>": entry["bundle"], "<vector space>": entry["vector_space_id"]}
        found = list(replay(requests(), connections, names))
    if "RECORD_ANSWERS" in os.environ:
        lines = [{"machine": machine()}, *found]
        GOLDEN.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return found


@pytest.fixture(scope="module")
def golden() -> list[dict[str, Any]]:
    """What was answered before, behind a line that tells on what machine."""
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def test_every_request_is_answered_as_it_was(answers: list[Answer], golden: list[dict[str, Any]]) -> None:
    recorded = golden[1:]
    tolerance = SAME_MACHINE if golden[0]["machine"] == machine() else OTHER_MACHINE
    by_name = {sent.name: sent for sent in requests()}
    assert [(a["name"], a["request"]) for a in recorded] == [(a["name"], a["request"]) for a in answers], "record them anew"
    used: set[Allowed] = set()
    found = []
    for before, now in zip(recorded, answers, strict=True):
        different = []
        for field, what in differences(before, now, tolerance):
            allowed = {one for one in ALLOWED if fnmatchcase(now["name"], one.requests) and one.field == field}
            used |= allowed
            different += [] if allowed else [f"{field}: {what}"]
        if different:
            found.append((before, now, different))
    if found:
        pytest.fail(told(by_name[found[0][0]["name"]], *found[0], len(found)), pytrace=False)
    assert used == set(ALLOWED), "a difference that is allowed and not there any more"


def told(sent: Sent, before: Answer, now: Answer, different: list[str], num_different: int) -> str:
    """The first request that is answered otherwise, for a reader."""
    body = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body)
    return "\n".join(
        [
            f"{num_different} of {len(requests())} requests are answered otherwise than recorded. The first is {sent.name!r}:",
            f"{sent.method} {sent.path} {dict(sent.headers)} to the {sent.server} server",
            f"{body!s:.2000}",
            *(f"  {line:.300}" for line in different[:20]),
            f"recorded: {json.dumps(before)[:3000]}",
            f"now:      {json.dumps(now)[:3000]}",
        ]
    )


def item(item_id: str, score: float, **more: Any) -> dict[str, Any]:
    return {"item_id": item_id, "score": score, **more}


def fields_that_differ(recorded: Any, now: Any) -> list[str]:
    return [field for field, _ in differences(recorded, now, 1e-6)]


def test_a_score_may_be_rounded_otherwise_but_not_be_another() -> None:
    recorded = {"items": [item("a", -0.5), item("b", -8.0)]}

    assert fields_that_differ(recorded, {"items": [item("a", -0.5000009), item("b", -8.000007)]}) == []
    assert fields_that_differ(recorded, {"items": [item("a", -0.500002), item("b", -8.00001)]}) == [
        "items[0].score",
        "items[1].score",
    ]


def test_items_may_change_places_only_where_rounding_decides() -> None:
    near, far = [item("a", 0.5, source="model"), item("b", 0.4999999)], [item("a", 0.5), item("b", 0.49999)]

    assert fields_that_differ(near, [item("b", 0.5), item("a", 0.4999999, source="model")]) == []
    assert fields_that_differ(near, [item("b", 0.5), item("a", 0.4999999, source="promotion")]) == ["[0].source"]
    assert fields_that_differ(far, far[::-1]) == ["[0].item_id", "[0].score", "[1].item_id", "[1].score"]
    assert fields_that_differ(near, near[:1]) == [""]


def test_every_field_counts_but_for_the_wording_of_a_refusal() -> None:
    recorded = {"error": {"code": "not_found", "message": "no such item", "field": "item_id"}}
    refused = recorded["error"]

    assert fields_that_differ(recorded, {"error": refused | {"message": "there is none"}}) == []
    assert fields_that_differ(recorded, {"error": refused | {"code": "conflict"}}) == ["error.code"]
    assert fields_that_differ(recorded, {"error": {"code": "not_found", "message": "no such item"}}) == ["error.field"]
    assert fields_that_differ(recorded, {"error": refused | {"message": None}}) == ["error.message"]
    assert fields_that_differ({"a": 1}, {"a": 1.0}) == ["a"]
    assert fields_that_differ({"a": None}, {"a": None, "b": None}) == ["b"]
