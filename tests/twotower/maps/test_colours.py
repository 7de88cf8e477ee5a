import numpy as np
import pyarrow as pa

from twotower.maps.colours import choose_columns, colour_points, densest, name_regions
from twotower.maps.item_map import NO_COLOUR, Colour, Region


def column(*values: object) -> pa.ChunkedArray:
    return pa.chunked_array([list(values)])


ITEMS = pa.table(
    {
        "shop": ["one"] * 100,
        "department": [f"d{i % 5}" for i in range(100)],
        "brand": ["ours" if i % 3 else None for i in range(100)],
        "type": [f"t{i % 20}" for i in range(100)],
        "maker": [f"m{i}" for i in range(100)],
    }
)


def test_the_first_column_with_2_to_64_values_colours_and_a_finer_one_names_regions() -> None:
    assert choose_columns(ITEMS, ["shop", "brand", "department", "type", "maker"]) == ("department", "type")
    assert choose_columns(ITEMS, ["maker", "type", "department"]) == ("type", "maker")
    assert choose_columns(ITEMS, ["shop", "brand"]) == (None, None)


def test_the_column_asked_for_colours() -> None:
    assert choose_columns(ITEMS, ["department", "type", "maker"], "maker") == ("maker", "maker")


def test_a_catalogue_without_a_suitable_column_is_not_coloured() -> None:
    assert choose_columns(ITEMS, []) == (None, None)


def test_colours_are_numbered_from_the_most_frequent_value() -> None:
    colours_M, colours = colour_points(column("tea", None, "jam", "jam", "ale"))
    assert colours == (Colour(name="jam", count=2), Colour(name="ale", count=1), Colour(name="tea", count=1))
    assert colours_M.tolist() == [2, NO_COLOUR, 0, 0, 1]


def test_values_beyond_255_have_no_colour_of_their_own() -> None:
    colours_M, colours = colour_points(column(*[f"{i % 300:03}" for i in range(301)]))
    assert len(colours) == 255
    assert colours[0] == Colour(name="000", count=2)
    assert (colours_M == NO_COLOUR).sum() == 300 - 255


def test_numbers_and_truth_values_are_colours_too() -> None:
    assert [colour.name for colour in colour_points(column(7, 7, 8))[1]] == ["7", "8"]
    assert [colour.name for colour in colour_points(column(True, True, False))[1]] == ["true", "false"]


def test_a_region_is_named_where_most_of_its_kind_lie() -> None:
    """Six at one place and three far away: the name stands with the six, and says how many they are."""
    places_S2 = np.array([[30_000 + i, 30_000] for i in range(6)] + [[100, 100]] * 3, np.uint16)
    assert densest(places_S2) == (30_002, 30_000, 6)


def test_regions_come_largest_first_and_small_kinds_have_none() -> None:
    places_M2 = np.array([[100, 100]] * 4 + [[60_000, 100]] * 6 + [[30_000, 9]] * 2, np.uint16)
    regions = name_regions(column(*["jam"] * 4, *["tea"] * 6, "ale", None), places_M2)
    assert regions == (Region(name="tea", x=60_000, y=100, count=6), Region(name="jam", x=100, y=100, count=4))
