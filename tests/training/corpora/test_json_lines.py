"""JSON lines are read as rows, and a line that is none is named."""

from pathlib import Path

import pytest

from training.corpora import json_lines
from training.corpora.json_lines import JsonLines
from twotower.errors import DataError


def read(tmp_path: Path, content: bytes) -> list[dict[str, object]]:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    return [row for batch in JsonLines(file).batches() for row in batch.to_pylist()]


def test_columns_of_all_lines_are_read(tmp_path: Path) -> None:
    rows = read(tmp_path, b'\xef\xbb\xbf{"a": "007", "n": 1}\n\n{"a": "8", "n": 1.5, "tags": ["x"]}')
    assert rows == [{"a": "007", "n": 1.0, "tags": None}, {"a": "8", "n": 1.5, "tags": ["x"]}]


def test_text_that_looks_like_a_time_stays_text(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"a": "2026-01-05 10:00:00", "in": {"t": "2026-01-05"}}\n') == [
        {"a": "2026-01-05 10:00:00", "in": {"t": "2026-01-05"}}
    ]


def test_blocks_may_have_other_columns_and_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 24)
    rows = read(
        tmp_path, b'{"n": 1, "items": []}\n{"n": null}\n{"n": 2.5, "items": [{"id": "x"}]}\n{"t": "2026-01-05"}\n{"t": "no"}\n'
    )
    assert [row["n"] for row in rows] == [1.0, None, 2.5, None, None]
    assert [row["t"] for row in rows] == [None, None, None, "2026-01-05", "no"]
    assert rows[2]["items"] == [{"id": "x"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n\n{"a": \n', "line 3: "),
        (b'{"a": 1}\n{"a": "x"}\n', "line 2: Column.*changed from number to string"),
        (b'[{"a": 1}]\n', "one JSON array; write one object per line"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', "line 2: it is not UTF-8"),
        (b'{"user_id": 9223372036854775808}\n{"user_id": 9223372036854775809}\n', "'user_id' holds numbers beyond 2.53.*as text"),
        (b"", "no records"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_column_of_two_kinds_is_named_with_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 12)
    with pytest.raises(DataError, match=r"'price' holds numbers and, between lines 2 and 3, text"):
        read(tmp_path, b'{"price": 1}\n{"price": "x"}\n')
