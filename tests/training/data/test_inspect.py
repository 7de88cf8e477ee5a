"""Problems of the data are reported before training."""

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.checks.gates import Limits
from training.data.inspect import inspect
from training.data.inspect_items import PUBLISHED_WITHOUT
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


def shop_with(tmp_path: Path, tiny_shop: Path, **columns: Any) -> Path:
    """The tiny shop with other values in the first rows of some columns of its items."""
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    items = pq.read_table(shop / "items.parquet")
    for name, values in columns.items():
        place, kind = items.schema.get_field_index(name), items.schema.field(name).type
        rest = items.column(name).combine_chunks().slice(len(values))
        items = items.set_column(place, name, pa.chunked_array([pa.array(values, kind), rest]))
    pq.write_table(items, shop / "items.parquet")
    return shop


def inspected(shop: Path) -> list[tuple[str, str, str]]:
    found = inspect(shop / "events.parquet", shop / "items.parquet", load_schema(shop / "schema.toml"))
    return [(f.level, f.where, f.what) for f in found]


def test_items_that_embed_will_leave_out_are_counted_with_an_example(tmp_path: Path, tiny_shop: Path) -> None:
    nan = [float("nan")] * 8
    shop = shop_with(tmp_path, tiny_shop, image=[nan, [1.0] * 8, *[nan] * 9], price=[1.0, float("inf")])
    num_items = pq.read_metadata(shop / "items.parquet").num_rows
    first, second = pq.read_table(shop / "items.parquet").column("item_id")[:2].to_pylist()
    found = inspected(shop)
    price, image, all_items = (what for level, _, what in found if level == "warning")
    assert price.startswith(f"is infinite in 1 items ({1 / num_items:.1%}), such as {second!r}: ")
    assert image.startswith(f"holds a value that is not finite in 10 items ({10 / num_items:.1%}), such as {first!r}: ")
    assert all_items.startswith(f"embed would leave out 11 of {num_items} items")
    assert not [what for level, _, what in found if level == "error"]


def test_the_nightly_job_has_the_limit_that_validate_speaks_of() -> None:
    assert Limits().rejected == PUBLISHED_WITHOUT


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "a", "b", "b", "b"], "2 ids occur more than once, such as 'a', 'b'; .*3 rows too many"),
        ([None, ""], "the id is missing in 2 items .* such as row 1"),
        (["x" * 200], "the id is longer than 128 bytes in 1 items .* such as 'xxxx"),
    ],
)
def test_faulty_ids_are_errors_because_training_refuses_them(
    tmp_path: Path, tiny_shop: Path, ids: list[str | None], said: str
) -> None:
    errors = [(where, what) for level, where, what in inspected(shop_with(tmp_path, tiny_shop, item_id=ids)) if level == "error"]
    assert re.search(said, dict(errors)["items.item_id"])


def test_events_are_looked_at_although_some_items_have_faults_and_not_without_items(tmp_path: Path, tiny_shop: Path) -> None:
    shop = shop_with(tmp_path, tiny_shop, item_id=["a", "a"])
    found = inspected(shop)
    assert [where for level, where, _ in found if level == "error"] == ["items.item_id"]
    assert any(where == "events" and "usable of" in what for _, where, what in found)
    (shop / "items.parquet").write_text("item_id\n")
    (error, note) = inspected(shop)
    assert "text, not Parquet" in error[2]
    assert note == ("note", "events", "not looked at, because the items cannot be read")


def test_every_column_that_does_not_fit_its_kind_is_named(tmp_path: Path, tiny_shop: Path) -> None:
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    schema = (shop / "schema.toml").read_text().replace('tags = "list"', 'tags = "numeric"')
    (shop / "schema.toml").write_text(
        schema.replace('title = "text"', 'title = "vector"').replace('image = "vector"', 'image = "text"')
    )
    assert {where for level, where, _ in inspected(shop) if level == "error"} == {"items.tags", "items.title", "items.image"}


def test_texts_that_are_cut_are_counted(tmp_path: Path, tiny_shop: Path) -> None:
    shop = shop_with(tmp_path, tiny_shop, title=["word " * 200] * 3)
    (cut,) = (what for _, where, what in inspected(shop) if where == "items.title" and "words" in what)
    assert cut.startswith("3 items")
    assert cut.endswith("that are read; the rest of these is cut")


@pytest.mark.parametrize(
    ("user", "said"), [("robot", "user 'robot' has .* a robot, or a test account"), ("(not set)", "looks like a missing id")]
)
def test_a_user_who_cannot_be_one_person_is_named(tmp_path: Path, tiny_shop: Path, user: str, said: str) -> None:
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    events = pq.read_table(shop / "events.parquet")
    robot = events.slice(0, len(events) // 2).set_column(0, "user_id", pa.array([user] * (len(events) // 2)))
    pq.write_table(pa.concat_tables([events, robot]), shop / "events.parquet")
    (warning,) = (what for level, _, what in inspected(shop) if level == "warning")
    assert re.search(said, warning)
    assert "(33.3%)" in warning
    hidden = inspect(shop / "events.parquet", shop / "items.parquet", load_schema(shop / "schema.toml"), hide_users=True)
    (warning,) = (found.what for found in hidden if found.level == "warning")
    assert warning.startswith("a user has ")


def test_columns_and_files_that_are_not_read_are_named(tmp_path: Path, tiny_shop: Path) -> None:
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    items = pq.read_table(shop / "items.parquet")
    (shop / "items.parquet").unlink()
    (shop / "items.parquet").mkdir()
    pq.write_table(items.append_column("size [cm]", pa.array([{"w": 1}] * len(items))), shop / "items.parquet" / "a.parquet")
    (shop / "items.parquet" / "README.txt").write_text("read me")
    notes = [what for level, where, what in inspected(shop) if (level, where) == ("note", "items")]
    assert "columns that the schema does not name: size [cm]" in notes
    assert "files that are not read, because they are no Parquet: README.txt" in notes
