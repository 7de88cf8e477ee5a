"""Rankings in sections."""

from typing import Any

import pytest

from service.behaviorgpt import sections
from service.behaviorgpt.sections import Named, _weight, sections_of, title_of, words_of

SHELF = [
    Named("GREEN TEA 20 BAGS", ("DRINKS", "TEA")),
    Named("BLACK TEA 20 BAGS", ("DRINKS", "TEA")),
    Named("DARK CHOCOLATE", ("SWEETS",)),
    Named("MINT TEA", ("DRINKS", "TEA")),
    Named("DARK CHOCOLATE BAR", ("SWEETS",)),
    Named("OLIVE OIL", ("OILS",)),
]


def test_sections_are_named_by_what_their_items_share_and_an_item_is_in_one_only() -> None:
    groups = sections_of(SHELF, max_sections=5, max_items=10, min_items=2)
    assert [(group.title, group.places) for group in groups] == [("Tea", [0, 1, 3]), ("Sweets", [2, 4])]


def test_a_section_shows_the_best_items_and_small_ones_are_left_out() -> None:
    groups = sections_of(SHELF, max_sections=5, max_items=1, min_items=1)
    assert all(len(group.places) == 1 for group in groups)
    assert sorted(place for group in groups for place in group.places) == sorted({p for g in groups for p in g.places})
    assert len(sections_of(SHELF, max_sections=1, max_items=10, min_items=1)) == 1


def test_what_all_items_share_says_nothing() -> None:
    same = [Named(f"tea {word}", ("Drinks",)) for word in ("a1", "b2", "c3")]
    (group,) = sections_of(same, max_sections=5, max_items=2, min_items=2)
    assert (group.title, group.places) == ("Recommended", [0, 1])


def test_only_titles_with_enough_items_left_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = []

    def weight(*arguments: Any) -> float:
        weighed.append(arguments)
        return _weight(*arguments)

    monkeypatch.setattr(sections, "_weight", weight)
    items = [Named(f"{'abcdefgh'[n % 8] * 5} {'xy'[n % 2] * 3}{chr(ord('a') + n // 8) * 4}", ()) for n in range(160)]
    groups = sections_of(items, max_sections=3, max_items=100, min_items=20)
    assert sorted(group.title for group in groups) == ["Aaaaa", "Bbbbb", "Ccccc"]
    assert len(weighed) == 8 + 7 + 6  # of the words and pairs, eight words are of twenty items


def test_too_few_items_make_no_section() -> None:
    assert sections_of(SHELF[:2], max_sections=5, max_items=10, min_items=3) == []
    assert sections_of([], max_sections=5, max_items=10, min_items=0) == []


def test_words_that_say_nothing_are_no_titles() -> None:
    assert words_of("The tea for 20 OZ of joy") == ["tea", "joy"]
    assert words_of("green tea bags") == ["green", "tea", "bags", "green tea", "tea bags"]


def test_titles_are_not_shouted() -> None:
    assert [title_of(text) for text in ("FROZEN  FOOD", "tea", "iPad cases", "Ålands smör")] == [
        "Frozen food",
        "Tea",
        "IPad cases",
        "Ålands smör",
    ]
