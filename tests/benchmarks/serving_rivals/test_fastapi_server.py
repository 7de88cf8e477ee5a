import asyncio
from pathlib import Path

import httpx

from benchmarks.serving_rivals.fastapi_server import build_app
from benchmarks.serving_rivals.plain_model import PlainModel, Question, Told

NOW_MS = 1_746_057_600_000


def test_it_answers_from_the_events_it_was_told(tiny_store: Path) -> None:
    model = PlainModel.load(tiny_store, 1)
    bought = [model.item_ids[place] for place in (3, 5, 8)]

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(model)), base_url="http://shop") as client:
            for item_id in bought:
                event = {"user_id": "u", "item_id": item_id, "event_type": "purchase", "timestamp": NOW_MS}
                told = await client.post("/v1/events", json={"events": [event | {"properties": {"channel": "x"}}]})
                assert told.json() == {"accepted": 1}
            return await client.post("/v1/recommend", json={"user_id": "u", "num_results": 7, "timestamp": NOW_MS})

    answered = asyncio.run(run()).json()
    events = model.encode([Told(item_id, "purchase", NOW_MS, {"channel": "x"}) for item_id in bought])
    (expected,) = model.recommend([Question(events, NOW_MS, 7)])
    assert [(item["item_id"], item["score"]) for item in answered["items"]] == expected
