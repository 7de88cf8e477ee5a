"""`twotower prepare files`: from text to Parquet, with a word about each column."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from training.commands.prepare_command import main


def test_files_are_converted_and_the_next_command_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.txt").write_text("ann|7|view|2026-03-02\n")
    (tmp_path / "i.txt").write_text("item_id|title\n7|rye bread\n")
    files = ["--events", str(tmp_path / "e.txt"), "--items", str(tmp_path / "i.txt"), "--out", str(tmp_path / "out")]
    assert main(["files", *files, "--event-columns", "user_id,item_id,event_type,timestamp"]) == 0
    assert pq.read_table(tmp_path / "out" / "events.parquet").column_names == ["user_id", "item_id", "event_type", "timestamp"]
    said = capsys.readouterr().err
    assert "items.parquet: 1 rows: item_id text, title text" in said
    assert "next: twotower schema infer --events" in said


def test_a_tab_may_be_written_as_the_shell_allows(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("a;b\tc\n1;2\t3\n")
    files = ["--events", str(tmp_path / "e.txt"), "--items", str(tmp_path / "e.txt"), "--out", str(tmp_path / "out")]
    assert main(["files", *files, "--delimiter", "\\t"]) == 0
    assert pq.read_table(tmp_path / "out" / "events.parquet").column_names == ["a;b", "c"]


def test_a_separator_of_several_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not one character"):
        main(["files", "--events", "e", "--items", "i", "--out", str(tmp_path), "--delimiter", "||"])
