"""A log of events as the server takes them."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.histories.past_events import read_past_events
from twotower.data.schema import Constant, EventColumns
from twotower.tables.left_out import LeftOut

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
COLUMNS = EventColumns(
    user_id="who", item_id="what", timestamp="when", event_type=Constant(constant="purchase"), features={"paid": "numeric"}
)


def read(path: Path, columns: EventColumns = COLUMNS, left_out: LeftOut | None = None, **table: Any) -> list[dict[str, Any]]:
    pq.write_table(pa.table(table), path / "events.parquet")
    return [event for batch in read_past_events(path / "events.parquet", columns, left_out or LeftOut()) for event in batch]


def test_an_event_has_the_names_of_the_interface_and_its_features_as_properties(tmp_path: Path) -> None:
    (event,) = read(tmp_path, who=["ann"], what=[7], when=[NOON], paid=[Decimal("2.50")])

    assert event.pop("event_id")
    assert event == {
        "user_id": "ann",
        "item_id": "7",
        "timestamp": NOON_MS,
        "event_type": "purchase",
        "properties": {"paid": 2.5},
    }


def test_a_missing_feature_is_missing(tmp_path: Path) -> None:
    first, second = read(tmp_path, who=["ann", "bob"], what=["a", "a"], when=[NOON, NOON], paid=[None, float("nan")])

    assert (first["properties"], second["properties"]) == ({}, {"paid": None})


def test_the_same_row_has_the_same_id_in_every_export_and_rows_that_are_alike_have_several(tmp_path: Path) -> None:
    before = read(tmp_path, who=["ann", "ann"], what=["tea", "tea"], when=[NOON, NOON], paid=[1.0, 1.0])
    after = read(tmp_path, who=["bob", "ann", "ann"], what=["tea"] * 3, when=[NOON] * 3, paid=[1.0] * 3)

    assert before[0]["event_id"] != before[1]["event_id"]
    assert [event["event_id"] for event in after[1:]] == [event["event_id"] for event in before]


def test_a_row_without_user_item_or_time_is_left_out(tmp_path: Path) -> None:
    when = [NOON, NOON, NOON, None, NOON]
    tally = LeftOut()

    events = read(
        tmp_path, left_out=tally, who=["a", None, "c", "d", "e"], what=["x", "x", None, "x", "x"], when=when, paid=[1.0] * 5
    )

    assert [event["user_id"] for event in events] == ["a", "e"]
    assert tally.num_rows == 5
