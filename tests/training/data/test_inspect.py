"""Problems of the data are reported before training."""

import shutil
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.inspect import inspect
from twotower.data.schema import SignalColumns, load_schema


def test_good_data_has_no_errors(tiny_shop: Path) -> None:
    schema = load_schema(tiny_shop / "schema.toml")
    findings = inspect(tiny_shop / "events.parquet", tiny_shop / "items.parquet", schema)
    assert {f.level for f in findings} == {"note"}


def test_each_fault_is_named_where_it_is(tiny_shop: Path, tmp_path: Path) -> None:
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    items = pq.read_table(shop / "items.parquet")
    pq.write_table(items.set_column(4, "price", pa.array(["cheap"] * len(items))), shop / "items.parquet")
    events = pq.read_table(shop / "events.parquet")
    orphan = events.slice(0, 5).set_column(1, "item_id", pa.array(["gone"] * 5))
    pq.write_table(pa.concat_tables([events, orphan]), shop / "events.parquet")
    findings = inspect(shop / "events.parquet", shop / "items.parquet", load_schema(shop / "schema.toml"))
    assert findings[0].level == "error"
    assert "'price'" in findings[0].what
    assert any(f.level == "warning" and "gone" in f.what for f in findings)


def test_signals_are_looked_at_too(tiny_shop: Path, tmp_path: Path) -> None:
    events, items = tiny_shop / "events.parquet", tiny_shop / "items.parquet"
    schema = msgspec.structs.replace(
        load_schema(tiny_shop / "schema.toml"), signals=SignalColumns(features=("mailer", "display"))
    )
    days = pa.array([1_735_700_000_000] * 2, pa.timestamp("ms", "UTC"))
    columns = {"item_id": ["item-1", "gone"], "from": days, "until": days, "mailer": [0.5, 0.5], "display": [0.0, 0.0]}
    pq.write_table(pa.table({**columns, "until": pa.nulls(2, days.type)}), tmp_path / "signals.parquet")
    findings = [f for f in inspect(events, items, schema, tmp_path / "signals.parquet") if f.where.startswith("signals")]
    assert [(f.level, f.where) for f in findings] == [
        ("warning", "signals"),
        ("warning", "signals.display"),
        ("note", "signals"),
        ("note", "signals.mailer"),
    ]
    assert "gone" in findings[0].what
    (error,) = (f for f in inspect(events, items, schema) if f.level == "error")
    assert "(mailer, display): give their file with --signals" in error.what
