"""Tokens of many texts at once are those of one text after the other, and slots stay those of version 2 of the features."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twotower.data import bags
from twotower.data.bags import FEW, Bags, list_bags, num_tokens_of, text_bags
from twotower.data.features import FeatureSpec, FieldSpec, encode_rows
from twotower.data.words import composed, tokens

TEXTS = [
    "Dark Roast, 2 kg!\nwhole bean",
    "",
    "_x9 \0 tab\tend",
    "Crème brûlée™ co\u00adoperate",
    "Straße ΣΊΣΥΦΟΣ İstanbul",
    "牛奶沙拉 milk 牛",
    "ｺｰﾋｰ 豆 ทับทิม",
    "हिन्दी עִבְרִית",
    "\u0301a \n\u0301\n b",
    "a\u0301\n\u0301b",
    "𝟘 😀 \U00020000x",
    "word " * 60,
    "漢" * 60,
]


def rows_of(found: Bags) -> list[list[str]]:
    """The tokens of each row."""
    distinct = found.distinct.to_pylist()
    assert len(set(distinct)) == len(distinct)
    return [[distinct[code] for code in row if code >= 0] for row in found.codes_NW.tolist()]


@given(st.lists(st.text() | st.sampled_from(TEXTS), max_size=20), st.sampled_from([1, 2, 5, 48]))
@example(TEXTS, 48)
@settings(deadline=None)  # the tables of characters are made in the first example
def test_texts_have_the_same_tokens_together_as_alone(texts: list[str], width: int) -> None:
    many = texts + [f"filler {i}" for i in range(FEW)]
    assert rows_of(text_bags(pa.array(many), width)) == [tokens(text)[:width] for text in many]
    assert rows_of(text_bags(pa.array(many[:FEW][-3:]), width)) == [tokens(text)[:width] for text in many[:FEW][-3:]]
    assert num_tokens_of(pa.array(many)).tolist() == [len(tokens(text)) for text in many]


@pytest.mark.parametrize("piece_bytes", [1, 40, 200])
def test_it_does_not_matter_how_many_texts_are_read_at_once(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bags, "PIECE_BYTES", piece_bytes)
    assert rows_of(text_bags(pa.array(TEXTS * 5), 48)) == [tokens(text)[:48] for text in TEXTS * 5]


def test_every_character_is_of_the_kind_that_one_text_gives_it() -> None:
    around = [f"a{chr(c)}b {chr(c)}\u0301漢{chr(c)}" for c in range(0x20000) if not 0xD800 <= c < 0xE000]
    found, width = [], 12
    for start in range(0, len(around), 8192):
        found += rows_of(text_bags(pa.array(around[start : start + 8192]), width))
    assert found == [tokens(text)[:width] for text in around]


def test_no_texts_have_no_tokens() -> None:
    assert text_bags(pa.array([], pa.string()), 3).codes_NW.shape == (0, 3)
    assert rows_of(text_bags(pa.array([""] * FEW), 3)) == [[]] * FEW
    assert num_tokens_of(pa.array([], pa.string())).tolist() == []


@given(st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=5), max_size=9))
def test_lists_have_the_same_values_many_as_few(lists: list[list[str | None] | None]) -> None:
    column = pa.array([*lists, *[["e\u0301"], None] * FEW], pa.list_(pa.string()))
    expected = [[composed(x) for x in row or () if x is not None][:3] for row in column.to_pylist()]
    assert rows_of(list_bags(column, 3)) == expected
    assert rows_of(list_bags(column[:5], 3)) == expected[:5]
    assert rows_of(list_bags(column[4:], 3)) == expected[4:]


@pytest.mark.parametrize("times", [1, FEW])
@pytest.mark.parametrize(
    ("kind", "value", "signed_slots"),
    [
        ("text", "Dark Roast", [-73533, -29033, 42508, -42658, -18640, 10550]),
        ("text", "Crème brûlée", [-11951, -86115, 51518, -57536, -65941, -99848]),
        ("text", "牛奶", [93510, 44588, 68989, -99990, -56143, -77930]),
        ("text", "", [66187, -47696, 0, 0, 0, 0]),
        ("list", ["a", "é"], [-48256, -44218, -8071, 8974, 0, 0]),
        ("categorical", "Nestlé", [20911, 10387]),
        ("id", "sku-1", [-12249, 68699, 87938]),
    ],
)
def test_slots_are_those_of_version_2(times: int, kind: str, value: Any, signed_slots: list[int]) -> None:
    """Numbers that models were trained with: another hash needs another version of the features."""
    spec = FeatureSpec(fields=(FieldSpec(name="field", kind=kind, max_tokens=3),))
    rows = encode_rows({"field": pa.array([value] * times)}, spec, 100_003)
    num_read = max(sum(map(bool, signed_slots)) // 2, 1) if kind in ("text", "list") else 1
    for slots, weights in zip(rows.slots_NS, rows.weights_NS, strict=True):
        assert slots.tolist() == np.abs(signed_slots).tolist()
        np.testing.assert_array_equal(weights, (np.sign(signed_slots) * num_read**-0.5).astype(np.float32))
