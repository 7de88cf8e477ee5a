"""Items found by words in the tiny shop, whose items have a title, a department and no text beside."""

import numpy as np
import pytest

from service.release.finding import Finders, ItemFinder, described, features, popularity
from service.release.loaded import LoadedRelease


@pytest.fixture(scope="module")
def finder(release: LoadedRelease) -> ItemFinder:
    return ItemFinder(release)


def titles(release: LoadedRelease, rows: list[int]) -> list[str]:
    """Titles of items; of an item without one, the text `None`."""
    return [str(release.items.column("title")[row].as_py()) for row in rows]


def values(release: LoadedRelease, feature: str) -> list[object]:
    return [value for value in release.items.column(feature).to_pylist() if value is not None]


def test_an_item_is_found_by_all_words_in_any_order_and_case(release: LoadedRelease, finder: ItemFinder) -> None:
    title = str(values(release, "title")[0])
    look, noun = title.split()
    found = finder.find(release, f"{noun.upper()} {look}", None, 400)
    assert set(titles(release, found.rows.tolist())) == {title}
    assert found.num_matching == len(found.rows) == values(release, "title").count(title)


def test_no_more_are_returned_than_were_asked_for_but_all_are_counted(release: LoadedRelease, finder: ItemFinder) -> None:
    found = finder.find(release, "", None, 5)
    assert (len(found.rows), found.num_matching) == (5, 400)


def test_the_most_popular_come_first_and_equal_ones_by_row(release: LoadedRelease, finder: ItemFinder) -> None:
    known_N = popularity(release)
    rows = finder.find(release, "", None, 400).rows
    assert sorted(rows.tolist(), key=lambda row: (-known_N[row], row)) == rows.tolist()
    assert len(np.unique(known_N)) > 1


def test_a_group_leaves_the_others_out_and_its_size_is_told(release: LoadedRelease, finder: ItemFinder) -> None:
    assert finder.group == "department"
    name, size = finder.group_sizes(release)[0]
    found = finder.find(release, "", name, 400)
    assert found.num_matching == size
    assert {release.items.column("department")[row].as_py() for row in found.rows.tolist()} == {name}
    assert sum(size for _, size in finder.group_sizes(release)) == len(values(release, "department"))


def test_words_of_a_category_find_its_items(release: LoadedRelease, finder: ItemFinder) -> None:
    assert finder.find(release, "aisle", None, 1).num_matching == len(values(release, "department"))
    assert finder.find(release, "aisle nowhere", None, 1).num_matching == 0


def test_an_id_finds_its_item_first(release: LoadedRelease, finder: ItemFinder) -> None:
    assert finder.find(release, " item-7 ", None, 3).rows.tolist() == [release.rows["item-7"]]
    assert finder.find(release, "item-7", "no such group", 3).num_matching == 0


def test_what_is_typed_is_text_and_no_pattern(release: LoadedRelease, finder: ItemFinder) -> None:
    for typed in (".*", "%", "_", "(", "\\", "a" * 100, "\x00", "İ"):
        assert finder.find(release, typed, None, 3).num_matching == 0


def test_the_features_are_told_with_the_number_of_values_of_categories(release: LoadedRelease) -> None:
    told = {name: (kind, values) for name, kind, values in features(release)}
    assert told["department"] == ("categorical", 4)
    assert told["title"] == ("text", None)
    assert told["price"] == ("numeric", None)


def test_a_finder_is_made_once_for_a_release(release: LoadedRelease) -> None:
    finders = Finders()
    assert finders.of(release) is finders.of(release)


def test_items_are_described_by_id_and_features(release: LoadedRelease) -> None:
    ((item_id, told),) = described(release, np.array([3]))
    assert (item_id, told["title"]) == (release.item_ids[3], titles(release, [3])[0])
    assert "item_id" not in told
