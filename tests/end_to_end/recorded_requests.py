"""About a thousand requests of every route, always the same ones, in an order that stores events before asking about them.

Every moment is fixed, so that no answer depends on the clock. Bad input is in `bad_requests.py`.
"""

from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import quote

from tests.end_to_end.bad_requests import FILTERS, bad_requests
from tests.end_to_end.made_up_users import DAY_MS, HOUR_MS, USERS, Life, event, item, options
from tests.end_to_end.sent import DAMAGED_RELEASE, FIRST_RELEASE, OTHER_RELEASE, T0_MS, TOKEN_OF, Sent


def requests() -> list[Sent]:
    """All of them, in order: what a request changes is seen by those behind it."""
    rng = Random(14)
    lives = {name: Life(rng, name) for name in USERS}
    sections = (
        bare_paths(),
        (s for life in lives.values() for s in life.stored(life.first_events)),
        (s for _ in range(3) for life in lives.values() for s in life.visit()),
        (life.shown("after three visits") for name, life in lives.items() if name != "many"),
        filters(),
        ranking_rules(rng),
        pages(rng),
        sessions(rng),
        similar(rng, list(lives)),
        scores(rng, list(lives.values())),
        batches(rng, list(lives)),
        bad_requests(),
        deleted_users(lives["bob"], lives["a/b c?%"]),
        guarded(rng),
        changed_items(rng),
        operators(),
    )
    return [sent for section in sections for sent in section]


def recommend(name: str, **body: Any) -> Sent:
    """A question about a fixed moment."""
    return Sent(f"recommend/{name}", "POST", "/v1/recommend", {"timestamp": T0_MS + 90 * DAY_MS, "num_results": 4} | body)


def bare_paths() -> Iterator[Sent]:
    """Routes that take no body."""
    for path in ("/livez", "/readyz", "/", "/docs", "/openapi.json", "/v1/releases", "/v1/items/item-1", "/v1/users/unknown"):
        for method in ("GET", "HEAD"):
            yield Sent(f"bare/{method} {path}", method, path)
    for item_id in ("item-0", "item-399", "item-400", "item%2D7", "", "a%2Fb", "%00", "a" * 129, "%FF", "zo%C3%AB"):
        yield Sent(f"item/{item_id[:20]}", "GET", f"/v1/items/{item_id}")
    yield Sent("bare/echo", "GET", "/livez", headers={"X-Request-ID": "my-id_7"})
    yield Sent("bare/odd id", "GET", "/livez", headers={"X-Request-ID": "not harmless!"})


def filters() -> Iterator[Sent]:
    """Every filter, right and wrong ones."""
    for n, expression in enumerate(FILTERS):
        yield recommend(f"filter/{n}", user_id="ann", filter=expression)


def ranking_rules(rng: Random) -> Iterator[Sent]:
    """Promotions, diversity and explanations, one at a time."""
    promoted = [("price < 2", {"position": 1}), ("price > 900", {"position": 2}), ("'organic' in tags", {"percent": 40})]
    promoted += [
        ("department == 'aisle 2'", {"percent": 60}),
        ("title == 'dark milk'", {"position": 4}),
        ("price < 3", {"percent": 1}),
    ]
    for n in range(24):
        chosen = rng.sample(promoted, rng.randrange(1, 4))
        promotions = [{"name": f"p{place}", "filter": text, **where} for place, (text, where) in enumerate(chosen)]
        about = {"user_id": rng.choice(list(USERS)), "diversity": rng.choice([0.0, 0.0, 0.3])}
        yield recommend(f"promotions/{n}", **about, promotions=promotions, num_results=6)
    clashing = [("late", "price < 3", 3), ("early", "price < 2.5", 1), ("between", "price < 3", 2)]
    for name in USERS:
        promotions = [{"name": called, "filter": text, "position": position} for called, text, position in clashing]
        yield recommend(f"promotions/clashing {name}", user_id=name, promotions=promotions, num_results=4)
    for n, diversity in enumerate((0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1)):
        yield recommend(f"diversity/{n}", user_id="bob", diversity=diversity, num_results=6)
        yield recommend(f"diversity/cold {n}", diversity=diversity, filter="price < 4", num_results=6)
    for n, name in enumerate(USERS):
        yield recommend(f"explain/{n}", user_id=name, explain=True, num_results=2)
        yield recommend(f"explain/own {n}", user_id=name, explain=True, exclude_seen=True, num_results=2)


def pages(rng: Random) -> Iterator[Sent]:
    """Three pages of one question, an event between two of them, and tokens where they do not belong."""
    for n in range(12):
        about = {"user_id": rng.choice(["ann", "bob", "more", "nobody"])} | options(rng) | {"num_results": 3}
        about.pop("validate_only", None)
        about.pop("candidate_item_ids", None)
        yield recommend(f"page/{n}/1", **about)
        for page in (2, 3):
            yield recommend(f"page/{n}/{page}", **about, page_token=f"{TOKEN_OF}recommend/page/{n}/{page - 1}")
            if n % 3 == 0:
                told = event(rng, T0_MS + 60 * DAY_MS) | {"user_id": about["user_id"]}
                yield Sent(f"events/page/{n}/{page}", "POST", "/v1/events", {"events": [told]})
    token = f"{TOKEN_OF}recommend/page/1/1"
    yield recommend("page/of another question", user_id="ann", diversity=0.123, page_token=token)
    yield recommend("page/size/1", user_id="bob", num_results=2)
    more = {"num_results": 4, "timeout_ms": 50_000, "events": [event(rng, T0_MS + 60 * DAY_MS)]}
    yield recommend("page/size/2", user_id="bob", **more, page_token=f"{TOKEN_OF}recommend/page/size/1")
    last = {"candidate_item_ids": ["item-1", "item-2", "item-3"], "num_results": 2}
    yield recommend("page/last/1", **last)
    yield recommend("page/last/2", **last, page_token=f"{TOKEN_OF}recommend/page/last/1")


def sessions(rng: Random) -> Iterator[Sent]:
    """Strangers who bring their events along, growing, shrinking and changed at the beginning."""
    for n in range(6):
        events = [event(rng, T0_MS + n * DAY_MS + k * 60_000) for k in range(9)]
        about = {} if n == 5 else {"session_id": f"s{n % 4}"}
        for step, part in enumerate((events[:1], events[:2], events[:7], events, events[:4], events[2:], events[:4][::-1])):
            more = {"include_metadata": ["title"]} if step == 1 else {"exclude_seen": True} if step == 5 else {}
            yield recommend(f"session/{n}/{step}", **about, **more, events=part)
    moments = ("2025-04-01T00:00:00Z", "2025-04-01T02:00:00.123456+02:00", "2025-03-31T23:00:00-01:00", T0_MS, 10**12)
    for n, moment in enumerate(moments):
        yield recommend(f"moment/{n}", events=[{"event_type": "view", "item_id": "item-7", "timestamp": moment}])
        yield recommend(f"moment/asked {n}", user_id="ann", timestamp=moment)


def similar(rng: Random, users: list[str]) -> Iterator[Sent]:
    """By item and by raw features, for nobody and for a user."""
    features: dict[str, Any] = {"title": "fresh tea", "department": "aisle 1", "tags": ["organic", "dark"], "price": 2.5}
    features |= {"released": "2024-05-01T00:00:00Z", "image": [0.5] * 8}
    for n in range(60):
        body: dict[str, Any] = {"num_results": 1 + n % 5, "timestamp": T0_MS + (40 + n) * DAY_MS}
        body |= {"item_id": item(rng)} if n % 3 else {"item": {k: features[k] for k in rng.sample(sorted(features), n % 6 + 1)}}
        if n % 2:
            body["user_id"] = rng.choice(users)
        if n % 5 == 1:
            body["events"] = [event(rng, T0_MS + DAY_MS) for _ in range(3)]
        rules: list[dict[str, Any]] = [
            {},
            {"filter": rng.choice(FILTERS[:30])},
            {"exclude_item_ids": [item(rng) for _ in range(50)]},
        ]
        more: list[dict[str, Any]] = [
            {},
            {"include_metadata": ["title", "price"]},
            {"target_event_type": "purchase"},
            {"strict": True},
        ]
        body |= rules[n % len(rules)] | more[n % len(more)]
        yield Sent(f"similar/{n}", "POST", "/similar" if n % 9 == 0 else "/v1/similar", body)


def scores(rng: Random, lives: list[Life]) -> Iterator[Sent]:
    """Probabilities of candidates, before and after one more event."""
    for n in range(60):
        life = lives[n % len(lives)]
        known = [*(item(rng) for _ in range(n % 7)), *life.staples[: n % 3], *(["gone-1"] if n % 4 == 0 else [])]
        body: dict[str, Any] = {"candidate_item_ids": known, "timestamp": T0_MS + 90 * DAY_MS}
        body |= {"user_id": life.name} if n % 6 else {"session_id": "s1"}
        told = [event(rng, T0_MS + DAY_MS)]
        more: list[dict[str, Any]] = [{}, {"events": told}, {"target_event_type": "view"}, {"history_mode": "stored"}]
        body |= more[n % len(more)]
        if n % 5 == 0:
            yield from life.stored([life.next_event()])
        yield Sent(f"score/{n}", "POST", "/v1/score", body)


def batches(rng: Random, users: list[str]) -> Iterator[Sent]:
    """Several questions at once, some of one user, some bad."""
    for n in range(14):
        asked: list[Any] = []
        for place in range(n % 5):
            about = {"user_id": rng.choice(users), "timestamp": T0_MS + 95 * DAY_MS, "num_results": 2}
            asked.append(about | options(rng))
            asked += [about | {"filter": "price <"}] if place == 2 else [{"num_results": "3"}] if place == 3 else []
        yield Sent(f"batch/{n}", "POST", "/v1/recommend/batch", {"requests": asked})
    yield Sent("batch/odd", "POST", "/v1/recommend/batch", {"requests": [1, None, [], "a", {"nonsense": 1}, {"num_results": 0}]})
    yield Sent("batch/65", "POST", "/v1/recommend/batch", {"requests": [{"validate_only": True}] * 65})


def deleted_users(*lives: Life) -> Iterator[Sent]:
    """Forgotten, asked about, deleted again, and known anew."""
    for life in lives:
        path = f"/v1/users/{quote(life.name, safe='')}"
        yield Sent(f"delete/{life.name}/1", "DELETE", path)
        yield life.shown("deleted")
        yield life.asked({"strict": True})
        yield Sent(f"delete/{life.name}/2", "DELETE", path)
        yield from life.stored([life.next_event()])
        yield life.shown("known anew")
        yield life.asked({"explain": True})
    for user_id in ("unknown", "", "%00", "a" * 129):
        yield Sent(f"delete/{user_id[:9]}", "DELETE", f"/v1/users/{user_id}")


def changed_items(rng: Random) -> Iterator[Sent]:
    """Items put and deleted, and what is answered then; the server takes at most twenty changes."""
    base = {"title": "sweet rice", "department": "aisle 3", "tags": ["sweet"], "price": 1.5, "released": "2025-01-01T00:00:00Z"}
    yield recommend("changed/page 1", user_id="ann", num_results=2)
    changes: list[tuple[str, str, list[Any]]] = [
        ("PUT", "items", [base | {"item_id": "new-1"}]),
        ("PUT", "items", [{"item_id": "item-3", "title": "new title"}, {"item_id": "new-2"}, {"item_id": "new-1", "price": 9.0}]),
        ("PUT", "items", []),
        ("PUT", "items", [{"title": "no id"}, {"item_id": 7}, {"item_id": ""}, 3, None, {"item_id": "x", "price": "dear"}]),
        (
            "PUT",
            "items",
            [{"item_id": "x", "colour": "red"}, {"item_id": "new-3", "image": [1.0] * 8}, {"item_id": "x", "image": [1]}],
        ),
        ("PUT", "items", [{"item_id": "new-4", "image": [0.0] * 8}, {"item_id": "new-4", "tags": ["a", None]}]),
        ("DELETE", "item_ids", ["item-5", "new-2", "never-there"]),
        ("DELETE", "item_ids", ["", 5, None, "a\0b", "a" * 129]),
        ("DELETE", "item_ids", []),
        ("PUT", "items", [base | {"item_id": f"twin-{n}"} for n in (2, 0, 1)]),
        ("PUT", "items", [base | {"item_id": f"many-{n}"} for n in range(30)]),
    ]
    for n, (method, name, listed) in enumerate(changes):
        yield Sent(f"items/{n}", method, "/v1/items", {name: listed})
        for item_id in ("new-1", "new-2", "item-3", "item-5"):
            yield Sent(f"items/{n}/{item_id}", "GET", f"/v1/items/{item_id}")
        about: dict[str, Any] = {"user_id": rng.choice(["ann", "more"]), "filter": "price < 3", "include_metadata": ["title"]}
        yield recommend(f"changed/{n}", **about)
        yield recommend(f"changed/chosen {n}", user_id="dora", candidate_item_ids=["new-1", "new-2", "item-3", "item-5"])
        yield recommend(f"changed/explained {n}", user_id="ann", explain=True, events=[event(rng, T0_MS, ("new-1", "item-5"))])
        body = {"timestamp": T0_MS + 95 * DAY_MS, "user_id": "more"}
        yield Sent(f"score/changed {n}", "POST", "/v1/score", body | {"candidate_item_ids": ["new-1", "item-3", "item-5"]})
        yield Sent(f"similar/changed {n}", "POST", "/v1/similar", body | {"item_id": "new-1", "num_results": 3})
    yield recommend("changed/twins", user_id="dora", candidate_item_ids=["twin-0", "twin-1", "twin-2", "new-1"])
    told = [event(rng, T0_MS + 95 * DAY_MS) | {"user_id": "ann", "item_id": i} for i in ("new-1", "item-5", "item-3")]
    yield Sent("events/changed", "POST", "/v1/events", {"events": told})
    yield recommend("changed/own", user_id="ann", explain=True, num_results=3)
    yield recommend("changed/page 2", user_id="ann", num_results=2, page_token=f"{TOKEN_OF}recommend/changed/page 1")


def operators() -> Iterator[Sent]:
    """The pointer is moved to another release and back; what is asked in between."""
    json = {"Content-Type": "application/json"}
    yield recommend("swap/before", user_id="dora", num_results=2)
    yield Sent("admin/refresh 1", "POST", "/v1/admin/refresh")
    yield Sent("admin/unknown", "POST", "/v1/admin/activate", {"release": "release-000000000000"})
    yield Sent("admin/damaged", "POST", "/v1/admin/activate", {"release": DAMAGED_RELEASE})
    yield Sent("admin/activate", "POST", "/v1/admin/activate", {"release": OTHER_RELEASE})
    yield Sent("admin/swapped", "GET", "/readyz", until=OTHER_RELEASE)
    yield Sent("admin/refresh 2", "POST", "/v1/admin/refresh")
    yield Sent("admin/releases 2", "GET", "/v1/releases")
    yield recommend("swap/expired", user_id="dora", num_results=2, page_token=f"{TOKEN_OF}recommend/swap/before")
    for name in USERS:
        yield recommend(f"swap/{name}", user_id=name, explain=name in ("ann", "many"))
        yield Sent(
            f"score/swap {name}",
            "POST",
            "/v1/score",
            {"timestamp": T0_MS, "user_id": name, "candidate_item_ids": ["item-1", "new-1"]},
        )
    yield Sent("admin/rollback without a type", "POST", "/v1/admin/rollback")
    yield Sent("admin/rollback", "POST", "/v1/admin/rollback", headers=json)
    yield Sent("admin/swapped back", "GET", "/readyz", until=FIRST_RELEASE)
    yield Sent("admin/releases 3", "GET", "/v1/releases")
    yield recommend("swap/after", user_id="dora", num_results=2)
    yield Sent("metrics", "GET", "/metrics")


def guarded(rng: Random) -> Iterator[Sent]:
    """A server with keys, two arms, an admin port, no place for item changes, and a history store that does not answer."""
    late = {"user_id": "ann", "timeout_ms": 5, "timestamp": T0_MS}
    yield Sent("guarded/late", "POST", "/v1/recommend", late, key("boss"), "guarded")
    bodies: dict[str, tuple[str, Any]] = {
        "/v1/recommend": ("POST", {"timestamp": T0_MS, "num_results": 2, "session_id": "s"}),  # who has no id is dealt by chance
        "/v1/recommend/batch": ("POST", {"requests": []}),
        "/v1/score": ("POST", {"session_id": "s1", "timestamp": T0_MS, "candidate_item_ids": ["item-1"]}),
        "/v1/similar": ("POST", {"item_id": "item-1", "num_results": 2}),
        "/v1/events": ("POST", {"events": []}),
        "/v1/items": ("PUT", {"items": []}),
        "/v1/items/item-1": ("GET", None),
        "/v1/users/ann": ("GET", None),
        "/v1/releases": ("GET", None),
        "/v1/admin/refresh": ("POST", None),
        "/livez": ("GET", None),
        "/metrics": ("GET", None),
        "/docs": ("GET", None),
        "/nowhere": ("GET", None),
    }
    holders = ("reader", "writer", "boss", "old", "unknown", "")
    for path, (method, body) in bodies.items():
        for holder in holders:
            yield Sent(f"guarded/{holder or 'nobody'} {path}", method, path, body, key(holder), "guarded")
        for holder in ("boss", "reader"):
            yield Sent(f"admin port/{holder} {path}", method, path, body, key(holder), "admin")
    yield Sent(
        "guarded/x-api-key", "POST", "/v1/similar", bodies["/v1/similar"][1], {"X-API-Key": "reader.secret of reader"}, "guarded"
    )
    yield Sent("guarded/wrong secret", "GET", "/v1/items/item-1", None, {"Authorization": "Bearer reader.secret"}, "guarded")
    for n in range(4):
        yield Sent(f"guarded/quota {n}", "GET", "/v1/items/item-1", None, key("slow"), "guarded")
    for n in range(24):
        events = [event(rng, T0_MS + k * HOUR_MS) for k in range(n % 4)]
        about: dict[str, Any] = {"user_id": f"u{n}", "history_mode": "replace"} if n % 3 else {"session_id": f"s{n}"}
        body = about | {"timestamp": T0_MS + DAY_MS, "events": events, "num_results": 2}
        yield Sent(f"guarded/arm {n}", "POST", "/v1/recommend", body, key("reader"), "guarded")
        listed = {"candidate_item_ids": ["item-1", "item-2"], "num_results": None}
        asked = {k: v for k, v in (body | listed).items() if v is not None}
        yield Sent(f"guarded/arm score {n}", "POST", "/v1/score", asked, key("reader"), "guarded")
    told = {"events": [event(rng, T0_MS) | {"user_id": "ann"}]}
    yield Sent("guarded/not stored", "POST", "/v1/events", told, key("writer"), "guarded")
    for strict in (False, True):
        for path, (_, body) in list(bodies.items())[:4]:
            if path != "/v1/recommend/batch":
                asked = body | {"user_id": "ann", "strict": strict, "timestamp": T0_MS}
                yield Sent(f"guarded/lost {path} {strict}", "POST", path, asked, key("boss"), "guarded")
    yield Sent("guarded/lost user", "DELETE", "/v1/users/ann", None, key("boss"), "guarded")
    slow = key("boss") | {"Content-Type": "application/json", "Content-Length": "90"}
    yield Sent("guarded/slow body", "POST", "/v1/recommend", b"{", slow, "guarded")


def key(holder: str) -> dict[str, str]:
    """The header that names a key's holder."""
    return {"Authorization": f"Bearer {holder}.secret of {holder}"} if holder else {}
