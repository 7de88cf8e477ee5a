"""Bodies that tests send to the routes: one event, and generated ones that are nearly right."""

from typing import Any

from hypothesis import strategies as st


def event(item: str = "item-1", user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_type": "view", "timestamp": "2025-05-01T12:00:00Z"} | fields


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
event_like = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.text(max_size=5) | json_values,
        "item_id": st.sampled_from(["item-1", "item-2", "gone"]) | json_values,
        "event_type": st.text(max_size=5) | json_values,
        "event_id": st.text(max_size=3),
        "query": st.text(max_size=5) | json_values,
        "timestamp": st.integers(315_532_800_000, 4_102_444_800_000)
        | st.datetimes().map(lambda d: d.isoformat() + "Z")
        | json_values,
        "value": st.floats(allow_nan=False, allow_infinity=False) | json_values,
        "properties": st.dictionaries(st.sampled_from(["price_paid", "channel", "x"]), json_values, max_size=3) | json_values,
        "position": json_values,
    },
)
attributes = st.sampled_from(["price", "title", "tags", "released", "department", "image", "item_id", "x", "None", "3", "'a'"])
operators = st.sampled_from([" < ", " == ", " in ", " and ", " or ", " != ", " not in ", "not ", "(", ")", ", ", "[", "]", "-"])
filters = st.lists(attributes | operators, max_size=8).map("".join) | st.text(max_size=40)
promotion_like = st.fixed_dictionaries(
    {"name": st.text(max_size=3), "filter": filters | st.just("price < 2")},
    optional={"position": st.integers(0, 12) | json_values, "percent": st.floats(0, 100) | json_values},
)
request_like = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.text(min_size=1, max_size=5) | json_values,
        "session_id": json_values,
        "events": st.lists(event_like, max_size=4) | json_values,
        "history_mode": st.sampled_from(["append", "replace", "stored"]) | json_values,
        "num_results": st.integers(-1, 501) | json_values,
        "target_event_type": st.text(max_size=5) | json_values,
        "timestamp": st.integers(315_532_800_000, 4_102_444_800_000) | json_values,
        "filter": filters | json_values,
        "exclude_item_ids": st.lists(st.sampled_from(["item-1", "gone"]), max_size=3) | json_values,
        "exclude_seen": st.booleans() | json_values,
        "exclude_event_types": st.lists(st.text(max_size=3), max_size=3) | json_values,
        "candidate_item_ids": st.lists(st.sampled_from(["item-1", "gone"]), max_size=3) | json_values,
        "include_metadata": st.lists(st.sampled_from(["title", "image", "released"]), max_size=3) | json_values,
        "validate_only": st.booleans() | json_values,
        "promotions": st.lists(promotion_like, max_size=3) | json_values,
        "diversity": st.floats(-0.1, 1.1) | json_values,
        "explain": st.booleans() | json_values,
        "page_token": st.text(max_size=20) | json_values,
        "item_id": st.sampled_from(["item-1", "gone"]) | json_values,
        "item": st.dictionaries(st.sampled_from(["title", "price", "tags", "released", "image", "x"]), json_values, max_size=4),
    },
)
