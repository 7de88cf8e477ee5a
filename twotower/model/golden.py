"""Golden queries: made-up histories with the release's exact answers, which are computed again before the release is served."""

import msgspec
import pyarrow as pa

from twotower.data.features import Ints, encode_rows
from twotower.data.item_statistics import item_statistics
from twotower.data.window import History
from twotower.model.config import ModelConfig
from twotower.model.scoring import Request

EVENT_TYPE = "golden"


class GoldenQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A history, the moment of the request, and the top of its exact ranking of the whole catalogue."""

    item_ids: list[str]
    times_ms: list[int]
    now_ms: int
    top_item_ids: list[str]
    top_scores: list[float]


def golden_request(model: ModelConfig, item_rows: Ints, times_ms: Ints, now_ms: int) -> Request:
    """The request of a golden query, whose items have these catalogue rows."""
    types = {"event_type": pa.array([EVENT_TYPE] * len(item_rows), pa.string())}
    context = encode_rows(types, model.context_spec, model.context_table_rows)
    return Request(History(item_rows, times_ms, context), item_statistics(item_rows, times_ms), now_ms)
