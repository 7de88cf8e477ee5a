"""The tokens of texts in the scripts of the world."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.words import composed_values, tokens


def test_words_and_then_their_pairs() -> None:
    assert tokens("Dark roast, 2 kg!") == ["dark", "roast", "2", "kg", "dark roast", "roast 2", "2 kg"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("crème brûlée", unicodedata.normalize("NFD", "crème brûlée")),
        ("한국어 커피", unicodedata.normalize("NFD", "한국어 커피")),
        ("Straße", "STRASSE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("İstanbul", "istanbul"),
        ("Ｆｕｌｌ １２", "full 12"),
        ("ｺｰﾋｰ", "コーヒー"),
        ("牛奶沙拉", "牛奶 沙拉"),
        ("Nike™ Air", "nike air"),
        ("co\u00adoperate", "cooperate"),
        ("می\u200cخواهم", "میخواهم"),
        ("ទឹក\u200bដោះគោ", "ទឹក ដោះគោ"),
        ("❤\ufe0f red", "red"),
    ],
)
def test_equal_texts_give_equal_tokens(one: str, other: str) -> None:
    assert tokens(one) == tokens(other)
    assert tokens(one)


@pytest.mark.parametrize("text", ["हिन्दी", "தமிழ்", "বাংলা", "עִבְרִית", "العَرَبِيَّة", "русский"])
def test_a_word_is_not_cut_at_its_marks(text: str) -> None:
    assert tokens(text) == [unicodedata.normalize("NFKC", text)]


def test_letters_stand_for_words_where_there_are_no_spaces() -> None:
    """Each pair follows its second letter, so that a cut text keeps pairs."""
    assert tokens("牛奶 500ml") == ["牛", "奶", "牛 奶", "500ml", "奶 500ml"]
    assert tokens("น้ำ")[0].startswith("น้"), "a letter keeps its marks"


def test_texts_without_words_have_no_tokens() -> None:
    assert [tokens(text) for text in ("", "!?", "👍", "\u0301")] == [[], [], [], []]


@given(st.text())
def test_any_text_has_tokens_that_are_its_own_tokens(text: str) -> None:
    """Splitting twice changes nothing, and neither does another spelling."""
    words = [token for token in tokens(text) if " " not in token]
    assert [token for token in tokens(" ".join(words)) if " " not in token] == words
    assert tokens(unicodedata.normalize("NFD", text)) == tokens(text)


def test_categories_are_equal_however_their_accents_are_written() -> None:
    values = pa.array(["Nestlé", unicodedata.normalize("NFD", "Nestlé"), None, "ASCII"])
    assert composed_values(values).to_pylist() == ["Nestlé", "Nestlé", None, "ASCII"]


def test_categories_that_are_no_text_stay_as_they_are() -> None:
    raw = pa.array([b"caf\xe9", "é".encode()], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    assert composed_values(broken).cast(pa.binary()).to_pylist() == raw.to_pylist()
