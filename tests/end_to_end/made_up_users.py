"""Users of the tiny shop who do something, ask what comes next, and do something again."""

from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import quote

from tests.end_to_end.bad_requests import FILTERS
from tests.end_to_end.sent import T0_MS, Sent

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
USERS = {  # name -> events before the first question
    "ann": 5,
    "bob": 40,
    "carl": 1,
    "zoë": 12,
    "a/b c?%": 8,
    "many": 250,
    "more": 330,
    "nobody": 0,
    "lost": 6,
    "dora": 20,
}


def item(rng: Random) -> str:
    """An item of the tiny shop."""
    return f"item-{rng.randrange(400)}"


def event(rng: Random, time_ms: int, items: tuple[str, ...] = ()) -> dict[str, Any]:
    """Something done at a moment, with an item of `items` or of the shop."""
    done: dict[str, Any] = {"event_type": rng.choice(["view", "view", "purchase"]), "timestamp": time_ms}
    done["item_id"] = rng.choice(items) if items and rng.random() < 0.6 else item(rng)
    if rng.random() < 0.7:
        done["properties"] = {"price_paid": round(rng.uniform(0, 12), 2), "channel": rng.choice(["web", "store", "fax"])}
    if rng.random() < 0.1:
        more = {"value": 2.5, "session_id": "s1", "recommendation_id": "r1", "position": rng.randrange(20)}
        done |= {name: more[name] for name in rng.sample(sorted(more), 2)}
    return done


class Life:
    """What one user does, and is recommended."""

    def __init__(self, rng: Random, name: str) -> None:
        self.rng, self.name, self.now_ms = rng, name, T0_MS
        self.num_asked = self.num_told = 0
        self.staples = tuple(f"gone-{n}" for n in range(3)) if name == "lost" else tuple(item(rng) for _ in range(4))
        self.first_events = [self.next_event() for _ in range(USERS[name])]

    def next_event(self) -> dict[str, Any]:
        """An event a little after the one before; of the user `lost` most are of items that the shop does not have."""
        self.now_ms += self.rng.choice([0, 1000, HOUR_MS, 7 * HOUR_MS])
        return event(self.rng, self.now_ms, self.staples)

    def stored(self, events: list[dict[str, Any]]) -> Iterator[Sent]:
        """Store events, at most 64 at a time."""
        for first in range(0, len(events), 64):
            self.num_told += 1
            body = {"events": [e | {"user_id": self.name} for e in events[first : first + 64]]}
            path = "/events" if self.num_told % 5 == 0 else "/v1/events"
            yield Sent(f"events/{self.name}/{self.num_told}", "POST", path, body)

    def shown(self, when: str) -> Sent:
        """All that is stored about the user."""
        return Sent(f"user/{self.name}/{when}", "GET", f"/v1/users/{quote(self.name, safe='')}")

    def visit(self) -> Iterator[Sent]:
        """Asked, told one event, asked again, told two, asked twice more: what is kept of the user is read on."""
        for num_new in (0, 1, 2, 0, 1):
            if num_new:
                yield from self.stored([self.next_event() for _ in range(num_new)])
            yield self.asked(options(self.rng))
        yield self.asked(options(self.rng) | {"history_mode": "stored"})
        inline = {"history_mode": self.rng.choice(["append", "replace"]), "events": [self.next_event() for _ in range(3)]}
        yield self.asked(options(self.rng) | inline)
        yield self.asked(options(self.rng))

    def asked(self, body: dict[str, Any]) -> Sent:
        """What comes next for the user, a little later."""
        self.num_asked += 1
        self.now_ms += self.rng.choice([0, HOUR_MS, 26 * HOUR_MS])
        path = "/recommend" if self.num_asked % 7 == 0 else "/v1/recommend"
        about = {"user_id": self.name, "timestamp": self.now_ms, "num_results": 1 + self.num_asked % 5}
        return Sent(f"recommend/{self.name}/{self.num_asked}", "POST", path, about | body)


def options(rng: Random) -> dict[str, Any]:
    """Some of the options of /v1/recommend."""
    listed = [*(item(rng) for _ in range(rng.randrange(8, 40))), "gone-1"]
    promotions: list[dict[str, Any]] = [{"name": "tea", "filter": "department == 'aisle 1'", "position": rng.randrange(1, 4)}]
    promotions += [{"name": "cheap", "filter": "price < 2", "percent": rng.choice([20, 50.5])}]
    possible: list[tuple[float, dict[str, Any]]] = [
        (0.25, {"filter": rng.choice(FILTERS[:30])}),
        (0.15, {"exclude_item_ids": listed}),
        (0.15, {"exclude_seen": True}),
        (0.1, {"exclude_event_types": [rng.choice(["purchase", "view", "unheard"])]}),
        (0.15, {"candidate_item_ids": [*listed[:10], "gone-2"]}),
        (0.15, {"promotions": promotions[: rng.randrange(1, 3)]}),
        (0.15, {"diversity": rng.choice([0.1, 0.5, 1.0])}),
        (
            0.12,
            {"include_metadata": rng.choice([["title"], ["price", "department"], ["tags", "released", "item_id"], ["image"]])},
        ),
        (0.12, {"explain": True}),
        (0.2, {"target_event_type": rng.choice(["purchase", "view", "unheard"])}),
        (0.1, {"session_id": "s1"}),
        (0.1, {"strict": True}),
        (0.1, {"timeout_ms": 60_000}),
        (0.05, {"validate_only": True}),
    ]
    return {name: value for share, some in possible if rng.random() < share for name, value in some.items()}
