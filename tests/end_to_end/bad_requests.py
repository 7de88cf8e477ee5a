"""Requests that must be refused, of every kind and for every route, and those beside them that must not be."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.end_to_end.sent import T0_MS, Sent

# The first thirty can be evaluated.
FILTERS = [
    "price < 3",
    "price >= 3 and price <= 5.5",
    "2 < price < 4",
    "3 > price",
    "department == 'aisle 1'",
    "department != 'aisle 1'",
    "department in ('aisle 1', 'aisle 3')",
    "department not in ['aisle 1', 'aisle 3']",
    "'organic' in tags",
    "'organic' not in tags",
    "'tea' in title",
    "'TEA' in title",
    "title == 'fresh bread'",
    "not (price < 3)",
    "not price < 3 or department == 'aisle 0'",
    "price == None",
    "price != None",
    "tags == None",
    "released < '2024-01-01'",
    "released >= '2024-01-01T00:00:00+02:00'",
    "item_id == 'item-7'",
    "item_id in ('item-1', 'item-2', 'gone')",
    "price in (1, 2.5, None)",
    "price > -1",
    "price < 3 and 'dark' in tags and department == 'aisle 2'",
    "price < 1 or price > 6 or title == 'small tea'",
    "(price < 2)",
    "  price < 2  ",
    "title < 'dark'",
    "price < 100",
    "price < 0",
    "price <",
    "",
    "   ",
    "price",
    "colour == 'red'",
    "price < 'dear'",
    "title < 3",
    "price == True",
    "'a' in price",
    "price in tags",
    "price + 1 < 3",
    "len(title) < 3",
    "__import__('os')",
    "price < 3; price",
    "title.upper() == 'A'",
    "1 < 2",
    "price is None",
    "released < 'yesterday'",
    "image == None",
    "price < 1e999",
    "lambda: 1",
    "price < 3 if price else price",
    "title == '\ud800'",
    "(" * 300 + "price < 3" + ")" * 300,
    "price < 3 or " * 90 + "price < 3",
]

JSON_ROUTES: dict[str, tuple[str, dict[str, Any]]] = {  # path -> method, and a body that is taken
    "/v1/recommend": ("POST", {"timestamp": T0_MS, "num_results": 1}),
    "/v1/similar": ("POST", {"item_id": "item-1", "num_results": 1, "timestamp": T0_MS}),
    "/v1/score": ("POST", {"candidate_item_ids": ["item-1"], "timestamp": T0_MS}),
    "/v1/events": ("POST", {"events": []}),
    "/v1/recommend/batch": ("POST", {"requests": []}),
    "/v1/items": ("DELETE", {"item_ids": []}),
    "/v1/admin/activate": ("POST", {"release": "release-000000000000"}),
}
NO_JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b'"text"',
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b"{'a': 1}",
    b'{"nonsense": 1}',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b"[" * 2000,
    b'{"a": 1} {"b": 2}',
]
LONG, WIDE = "a" * 129, "é" * 65  # an id has at most 128 bytes
BAD_IDS: list[Any] = ["", LONG, WIDE, "a\0b", 7, True, [], "\ud800"]
BAD_MOMENTS: list[Any] = [
    0,
    -1,
    1_743_465_600,
    10**19,
    1.5,
    "yesterday",
    "2025-04-01",
    "2025-04-01T00:00:00",
    "1901-01-01T00:00:00Z",
    {},
]
EVENT: dict[str, Any] = {"event_type": "view", "timestamp": T0_MS, "item_id": "item-1"}
BAD_EVENTS: list[Any] = [
    1,
    {},
    {"event_type": "view"},
    {"timestamp": T0_MS},
    EVENT | {"event_type": ""},
    EVENT | {"event_type": LONG},
    EVENT | {"item_id": 5},
    EVENT | {"item_id": "a\0b"},
    EVENT | {"item_id": WIDE},
    EVENT | {"timestamp": "now"},
    EVENT | {"timestamp": 1},
    EVENT | {"timestamp": "2101-01-01T00:00:00Z"},
    EVENT | {"value": "much"},
    EVENT | {"position": -1},
    EVENT | {"position": 1_000_001},
    EVENT | {"properties": []},
    EVENT | {"properties": {"a": {}}},
    EVENT | {"properties": {"a": 2**53 + 1}},
    EVENT | {"properties": {"a" * 129: 1}},
    EVENT | {"properties": {f"p{n}": n for n in range(65)}},
    EVENT | {"colour": "red"},
    EVENT | {"event_id": ""},
    EVENT | {"user_id": "somebody else"},
]
ABOUT_USER: list[tuple[str, list[Any]]] = [
    ("user_id", BAD_IDS),
    ("session_id", ["", WIDE, 7]),
    ("target_event_type", ["", LONG, 7]),
    ("timestamp", BAD_MOMENTS),
    ("strict", ["yes", 1, None]),
    ("timeout_ms", [0, 60_001, "5", 1.5]),
    ("history_mode", ["", "all", None]),
    ("events", [None, {}, [None], "view", [EVENT] * 1025]),
]
LISTED: list[tuple[str, list[Any]]] = [
    ("num_results", [0, -1, 501, 1.5, "3", None, True]),
    ("filter", [7, "price < 3 or " * 100, []]),
    ("exclude_item_ids", [None, "item-1", [""], [7], ["a\0b"], ["a"] * 10_001]),
    ("include_metadata", [["colour"], "title", [7], [None]]),
    ("nonsense", [1]),
]
RECOMMEND: list[tuple[str, list[Any]]] = [
    ("exclude_seen", ["yes", 0]),
    ("exclude_event_types", ["view", [""], ["a"] * 65, [WIDE]]),
    ("candidate_item_ids", ["item-1", [LONG], [], ["gone"]]),
    ("diversity", [-0.1, 1.1, "much", None]),
    ("explain", ["yes", None]),
    ("validate_only", [1]),
    ("page_token", ["", "no token", "a" * 8193, 7, "AAAA", "lgAAAACQAA"]),
    (
        "promotions",
        [
            [{}],
            [{"name": "a", "filter": "price < 3"}],
            [{"name": "a", "filter": "price < 3", "position": 1, "percent": 5}],
            [{"name": "a", "filter": "price < 3", "position": 0}],
            [{"name": "a", "filter": "price < 3", "percent": 0}],
            [{"name": "a", "filter": "price < 3", "percent": 101}],
            [{"name": "a", "filter": "colour < 3", "position": 1}],
            [{"name": "", "filter": "price < 3", "position": 1}],
            [{"name": "a", "filter": "price < 3", "position": 1}, {"name": "b", "filter": "price < 3", "position": 1}],
            [{"name": n, "filter": "price < 3", "percent": 60} for n in "ab"],
            [{"name": str(n), "filter": "price < 3", "position": n + 1} for n in range(11)],
        ],
    ),
]
SIMILAR: list[tuple[str, list[Any]]] = [
    ("item_id", [None, "", LONG, 7, "gone", "item-400"]),
    ("item", [{}, {"title": "tea"}, "tea", {"title": 7}]),
]
FEATURES: list[Any] = [
    {},
    {"colour": "red"},
    {"title": 7},
    {"price": "dear"},
    {"price": None},
    {"tags": "organic"},
    {"tags": [1]},
]
FEATURES += [
    {"image": [1.0]},
    {"image": "x"},
    {"released": 7},
    {"released": "never"},
    {"title": "a" * 4097},
    {"item_id": "item-1"},
]
SCORE: list[tuple[str, list[Any]]] = [
    ("candidate_item_ids", [None, "item-1", [7], [""], [WIDE], []]),
    ("num_results", [3]),
    ("nonsense", [1]),
]
HEADERS: list[dict[str, str]] = [
    {"Content-Type": "text/plain"},
    {"Content-Type": ""},
    {"Content-Type": "application/json; charset=utf-8"},
    {"Content-Type": "APPLICATION/JSON"},
    {"Content-Type": "application/jsonp"},
    {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    {"Content-Type": "application/json", "Content-Encoding": "identity"},
    {"Content-Type": "application/json", "Content-Length": "5000000"},
]
JSON = {"Content-Type": "application/json"}


def bad(name: str, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Sent:
    """One of them."""
    return Sent(f"bad/{name}", method, path, body, headers or {})


def bad_requests() -> Iterator[Sent]:
    """Every one of them."""
    for path, (method, right) in JSON_ROUTES.items():
        for n, body in enumerate(NO_JSON):
            yield bad(f"{path}/body {n}", method, path, body, JSON)
        for n, headers in enumerate(HEADERS):
            yield bad(f"{path}/headers {n}", method, path, json.dumps(right).encode(), headers)
    yield from wrong_paths()
    yield from wrong_fields("/v1/recommend", [*ABOUT_USER, *LISTED, *RECOMMEND])
    yield from wrong_fields("/v1/similar", [*ABOUT_USER[:4], *LISTED, *SIMILAR])
    yield from wrong_fields("/v1/score", [*ABOUT_USER[4:], *SCORE])
    for n, features in enumerate(FEATURES):
        described = {"item": features, "num_results": 1, "timestamp": T0_MS}
        yield bad(f"features {n}", "POST", "/v1/similar", described)
    for n, event in enumerate(BAD_EVENTS):
        asked = {"events": [EVENT, event], "user_id": "bad", "timestamp": T0_MS, "num_results": 1}
        yield bad(f"inline event {n}", "POST", "/v1/recommend", asked)
    yield from told_events()
    right = {"timestamp": T0_MS, "num_results": 1}
    contradictions: dict[str, dict[str, Any]] = {
        "stored": {"history_mode": "stored", "events": [EVENT]},
        "explain": {"explain": True, "num_results": 21},
    }
    for name, more in contradictions.items():
        yield bad(f"contradiction/{name}", "POST", "/v1/recommend", right | more)


def wrong_fields(path: str, fields: list[tuple[str, list[Any]]]) -> Iterator[Sent]:
    """A right body with one field wrong."""
    method, right = JSON_ROUTES[path]
    for name, values in fields:
        for n, value in enumerate(values):
            yield bad(f"{path}/{name} {n}", method, path, right | {name: value})


def wrong_paths() -> Iterator[Sent]:
    """Paths that there are not, and methods that a path does not know."""
    paths = ("/v1/recommend", "/v1/events", "/v1/items", "/v1/users/ann", "/v1/items/item-1", "/livez", "/v1/admin/refresh")
    for path in paths:
        for method in ("GET", "PATCH", "OPTIONS", "HEAD", "BREW"):
            if not (method in ("GET", "HEAD") and path in paths[3:6]):
                yield bad(f"{method} {path}", method, path, None)
    for path in (
        "/v2/recommend",
        "/v1/recommend/",
        "/v1//recommend",
        "/v1/users",
        "/v1/users/",
        "/V1/recommend",
        "/score",
        "/items/a",
    ):
        yield bad(f"POST {path}", "POST", path, {"timestamp": T0_MS})
    for path in ("/v1/users/%FF", "/v1/users/%ED%A0%80", "/v1/items/%00", "/%2e%2e/etc", "/livez?a=%FF&a", "/*"):
        yield bad(f"GET {path}", "GET", path, None)


def told_events() -> Iterator[Sent]:
    """Events of which some are stored, some were before, and some are refused."""
    good = EVENT | {"user_id": "told", "event_id": "e1"}
    many = [good, *BAD_EVENTS, good | {"event_id": "e2"}, good, EVENT, good | {"timestamp": "2099-01-01T00:00:00Z"}]
    for n, events in enumerate([[good], [good], many, many[:3] * 2, [good | {"event_id": f"m{k % 7}"} for k in range(12)]]):
        yield bad(f"told {n}", "POST", "/v1/events", {"events": events})
    unusable: list[Any] = [None, {}, "view", [good] * 1025]
    for n, events in enumerate(unusable):
        yield bad(f"told/unusable {n}", "POST", "/v1/events", {"events": events})
    yield bad("told/shown", "GET", "/v1/users/told", None)
    yield bad("told/another", "GET", "/v1/users/somebody%20else", None)
    body = {"user_id": "told", "timestamp": T0_MS, "num_results": 2}
    yield bad("told/asked", "POST", "/v1/recommend", body)
