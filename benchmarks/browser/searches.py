"""Whether a search steers an answer: a household's history, then a query made from a product, and what stands in the top 10.

The queries are not those that people typed, because the data has none: each holds the words of a product's type, alone, with the
brand before it, or with the size after it. Half of the products are drawn from December's purchases, as often as they are bought.
Of the other half the type is drawn evenly from all types that were bought, so most of them are rare.

H: households
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.data.schema import load_schema

NUM_QUERIES, NUM_HOUSEHOLDS, KNOWN_EVENTS, SEED = 1000, 250, 256, 0
BEFORE_MS = 30_000  # a search was so long before the question
TYPE = "product_type"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query made from a product, and the household that types it."""

    user_id: str
    text: str
    product_type: str
    is_common: bool  # drawn as products are bought; otherwise as types are listed


@dataclass(frozen=True, slots=True)
class Found:
    """Of the ten best items, how many have the type of the query."""

    searched: int
    without: int  # for the same household without the search
    by_text: int  # by the cosine of the query's vector alone


def questions(data: Path) -> tuple[dict[str, list[Json]], list[Asked], int]:
    """Histories before the test part, queries, and the moment of the questions."""
    schema = load_schema(data / "schema.toml")
    until = schema.require_split().test_from
    draw = random.Random(SEED)
    events = pq.read_table(data / "events.parquet")
    is_known = pc.less(events["timestamp"], pa.scalar(until, events.schema.field("timestamp").type))
    before, after = events.filter(is_known), events.filter(pc.invert(is_known))
    items = {row["item_id"]: row for row in pq.read_table(data / "items.parquet").to_pylist() if row[TYPE]}
    bought = [item_id for item_id in after["item_id"].to_pylist() if item_id in items]
    of_type: dict[str, list[str]] = {}
    for item_id in sorted(set(bought)):
        of_type.setdefault(items[item_id][TYPE], []).append(item_id)
    users = draw.sample(sorted(set(before["user_id"].to_pylist())), NUM_HOUSEHOLDS)
    asked = []
    for number in range(NUM_QUERIES):
        is_common = number % 2 == 0
        item = items[draw.choice(bought) if is_common else draw.choice(of_type[draw.choice(sorted(of_type))])]
        asked.append(Asked(users[number % len(users)], text_of(item, number // 2 % 3), item[TYPE], is_common))
    return histories(before, users), asked, int(until.timestamp() * 1000)


def text_of(item: Json, form: int) -> str:
    """The words of the product's type, alone, with its brand, or with its size."""
    words = (item[TYPE], f"{item['brand'] or ''} {item[TYPE]}", f"{item[TYPE]} {item['package_size'] or ''}")
    return words[form].strip().lower()


def histories(before: Any, users: list[str]) -> dict[str, list[Json]]:
    """The last events of some households, oldest first."""
    rows = before.filter(pc.is_in(before["user_id"], pc.cast(users, before["user_id"].type))).sort_by("timestamp").to_pylist()
    result: dict[str, list[Json]] = {user: [] for user in users}
    for row in rows:
        event = {name: row[name] for name in ("user_id", "item_id", "event_type")}
        properties = {name: row[name] for name in ("price_paid", "store_id")}
        result[row["user_id"]].append(event | {"timestamp": int(row["timestamp"].timestamp() * 1000), "properties": properties})
    return {user: events[-KNOWN_EVENTS:] for user, events in result.items()}


def ask(url: str, data: Path) -> Iterator[tuple[Asked, Found]]:
    """Every query and what the server at `url`, whose store of histories is empty, answers."""
    known, asked, now_ms = questions(data)
    with httpx.Client(base_url=url, timeout=60) as client:
        for events in known.values():
            post(client, "/v1/events", {"events": events})
        for query in asked:
            about = {"user_id": query.user_id, "timestamp": now_ms, "num_results": 10, "include_metadata": [TYPE]}
            search = {"event_type": "search", "query": query.text, "timestamp": now_ms - BEFORE_MS}
            similar = {"item": {"title": query.text}, "num_results": 10, "include_metadata": [TYPE]}
            yield (
                query,
                Found(
                    of_its_type(post(client, "/v1/recommend", about | {"events": [search]}), query),
                    of_its_type(post(client, "/v1/recommend", about), query),
                    of_its_type(post(client, "/v1/similar", similar), query),
                ),
            )


def of_its_type(answer: Json, query: Asked) -> int:
    """How many items of an answer have the type of the query."""
    return sum(item["metadata"][TYPE] == query.product_type for item in answer["items"])


def post(client: httpx.Client, path: str, body: Json) -> Json:
    """The answer to a body; an error of httpx for any other status than success."""
    answer: Json = client.post(path, json=body).raise_for_status().json()
    return answer
