"""`twotower prepare files`: from text to Parquet, with a word about each column."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from training.commands.prepare_command import main
from twotower.data.schema import load_schema


def test_files_are_converted_and_the_next_command_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.txt").write_text("".join(f"ann|7|view|2026-03-{day:02d}\n" for day in range(1, 10)))
    (tmp_path / "i.txt").write_text("item_id|title\n7|rye bread\n")
    files = ["--events", str(tmp_path / "e.txt"), "--items", str(tmp_path / "i.txt"), "--out", str(tmp_path / "out")]
    assert main(["files", *files, "--event-columns", "user_id,item_id,event_type,timestamp"]) == 0
    assert pq.read_table(tmp_path / "out" / "events.parquet").column_names == ["user_id", "item_id", "event_type", "timestamp"]
    said = capsys.readouterr().err
    assert "items.parquet: 1 rows: item_id text, title text" in said
    assert load_schema(tmp_path / "out" / "schema.toml").items.title == "title"
    assert "note     split: " in said
    assert "next: twotower train demo --events" in said


def test_a_schema_that_was_corrected_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"ann,7,2026-03-{day:02d}\n" for day in range(1, 10)))
    (tmp_path / "i.csv").write_text("item_id,title\n7,rye bread\n")
    files = ["--events", str(tmp_path / "e.csv"), "--items", str(tmp_path / "i.csv"), "--out", str(tmp_path)]
    assert main(["files", *files]) == 0
    (tmp_path / "schema.toml").write_text("corrected")
    assert main(["files", *files]) == 0
    assert (tmp_path / "schema.toml").read_text() == "corrected"
    assert "schema.toml was there and stays as it is" in capsys.readouterr().err


def test_what_training_would_refuse_is_said_before_it_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"ann,9,2026-03-{day:02d}\n" for day in range(1, 10)))
    (tmp_path / "i.csv").write_text("item_id,title\n7,rye bread\n")
    assert (
        main(["files", "--events", str(tmp_path / "e.csv"), "--items", str(tmp_path / "i.csv"), "--out", str(tmp_path / "o")])
        == 0
    )
    said = capsys.readouterr().err
    assert "  error    events: " in said
    assert "training would refuse this data: correct the 1 error above; then: twotower validate" in said


def test_a_tab_may_be_written_as_the_shell_allows(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("a;b\tc\n1;2\t3\n")
    files = ["--events", str(tmp_path / "e.txt"), "--items", str(tmp_path / "e.txt"), "--out", str(tmp_path / "out")]
    assert main(["files", *files, "--delimiter", "\\t"]) == 0
    assert pq.read_table(tmp_path / "out" / "events.parquet").column_names == ["a;b", "c"]


def test_a_separator_of_several_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not one character"):
        main(["files", "--events", "e", "--items", "i", "--out", str(tmp_path), "--delimiter", "||"])
