"""What `twotower validate` prints: a line for each finding, with the values of the data as they are."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.commands.validate_command import main, print_findings
from training.data.inspect_items import Finding


@pytest.mark.parametrize("item_id", ["sku[/red]", "[bold]x", "a[/]b"])
def test_ids_that_look_like_markup_are_shown_as_they_are(
    tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], item_id: str
) -> None:
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    events = pq.read_table(shop / "events.parquet")
    orphans = events.slice(0, 5).set_column(1, "item_id", pa.array([item_id] * 5))
    pq.write_table(pa.concat_tables([events, orphans]), shop / "events.parquet")
    files = ("events.parquet", "items.parquet", "schema.toml")
    assert main([f"--{file.partition('.')[0]}={shop / file}" for file in files]) == 0
    assert f"(such as {item_id})" in capsys.readouterr().out


def test_outside_a_terminal_a_finding_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    long = Finding("error", "items.weight [kg]", f"two\nlines, {'long ' * 60}end")
    print_findings([long, Finding("note", "items", "10 items")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("error    items.weight [kg]: two lines, long long")
    assert first.endswith("end")
    assert second == "note     items: 10 items"
