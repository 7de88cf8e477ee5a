import json
import logging
import os
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.telemetry.logs import JsonHandler, LineWriter, RequestLog
from service.telemetry.request_record import RequestRecord
from tests.service.conftest import Client

ODD = [
    "é",
    unicodedata.normalize("NFD", "é"),
    "\u202eshop",
    "🧦" * 32,
    "a\nb",
    "a\r\nb: c",
    "\x1b[31m",
    " ",
    "\u2028",
    "ſ",
    "İ",
    "%00",
]
texts = st.sampled_from(ODD) | st.text(min_size=1, max_size=32).filter(lambda t: "\0" not in t)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(user=texts, item=texts)
def test_ids_come_back_as_they_were_sent(shared_client: Client, user: str, item: str) -> None:
    event = {"user_id": user, "item_id": item, "event_type": "view", "timestamp": 10**12}
    assert shared_client.post("/v1/events", {"events": [event]}).json()["accepted"] == 1
    path = f"/v1/users/{quote(user, safe='')}"
    found = shared_client.get(path).json()
    assert (found["user_id"], found["events"][-1]["item_id"]) == (user, item)
    assert item in shared_client.recommend(user_id=user)["missing_item_ids"]
    assert shared_client.request("DELETE", path).json()["user_id"] == user


def test_what_looks_the_same_is_not_the_same_user(client: Client) -> None:
    composed, decomposed = ODD[:2]
    event = {"user_id": composed, "item_id": "item-1", "event_type": "view", "timestamp": 10**12}
    client.post("/v1/events", {"events": [event]})
    assert client.recommend(user_id=composed)["history_seq"] == 1
    assert client.recommend(user_id=decomposed)["history_seq"] == 0


@pytest.mark.parametrize("text", ["é" * 65, "🧦" * 33, "x" * 4096, "🧦" * 1024])
def test_an_id_too_long_in_bytes_is_refused(client: Client, text: str) -> None:
    for body in ({"user_id": text}, {"exclude_item_ids": [text]}, {"candidate_item_ids": [text]}):
        assert client.post("/v1/recommend", body).status_code == 422
    assert client.get(f"/v1/users/{quote(text, safe='')}").status_code == 422


@pytest.mark.parametrize("text", ODD)
def test_no_id_can_forge_a_line_of_the_log(text: str) -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, pytest.fail)
    handler, logger = JsonHandler(writer), logging.getLogger("twotower.requests")
    logger.addHandler(handler)
    try:
        RequestLog("key")(RequestRecord("r", 0.0, text, user_id=text, status=500))
    finally:
        logger.removeHandler(handler)
    writer.close()
    os.close(descriptor)
    with os.fdopen(reader, "rb") as log:
        (line,) = log.read().splitlines()
    assert json.loads(line)["user"] not in (None, text)
    assert text.encode() not in line or text == " "
