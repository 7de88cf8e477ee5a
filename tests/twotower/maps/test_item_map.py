from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from twotower.errors import ReleaseMismatch
from twotower.maps.item_map import NO_COLOUR, Colour, ItemMap, MapInfo, Region, along_curve, morton, read_map, write_map


def drawn() -> ItemMap:
    info = MapInfo(
        num_items=4,
        num_placed=1,
        colour_column="department",
        colours=(Colour(name="tea", count=2),),
        regions=(Region(name="green tea", x=1, y=2, count=2),),
    )
    places_M2 = np.array([[0, 0], [1, 0], [65_535, 65_535]], np.uint16)
    return ItemMap(np.array([3, 0, 1], np.uint32), places_M2, np.array([0, 0, NO_COLOUR], np.uint8), info)


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_map(tmp_path / "map.arrow", drawn())
    read = read_map(tmp_path / "map.arrow", 4)
    assert read.info == drawn().info
    for found, written in (
        (read.rows_M, drawn().rows_M),
        (read.places_M2, drawn().places_M2),
        (read.colours_M, drawn().colours_M),
    ):
        np.testing.assert_array_equal(found, written)


def test_equal_maps_are_equal_files(tmp_path: Path) -> None:
    """So that a night on which nothing changed publishes nothing."""
    for name in ("a", "b"):
        write_map(tmp_path / name, drawn())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_curve_visits_the_four_quarters_one_after_the_other() -> None:
    places = [[0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [65_535, 65_535]]
    assert morton(np.array(places, np.uint16)).tolist() == [0, 1, 2, 3, 4, 2**32 - 1]


def test_points_of_one_place_stand_in_the_order_of_their_rows() -> None:
    places_M2 = np.array([[5, 5], [0, 0], [5, 5]], np.uint16)
    made = along_curve(
        np.array([2, 1, 0], np.uint32), places_M2, np.array([1, 2, 3], np.uint8), MapInfo(num_items=3, num_placed=0)
    )
    assert (made.rows_M.tolist(), made.colours_M.tolist()) == ([1, 0, 2], [2, 3, 1])


@pytest.mark.parametrize(
    ("faulty", "num_items", "told"),
    [
        (drawn(), 3, "item row 3, the catalogue has 3"),
        (replace(drawn(), rows_M=np.array([1, 0, 1], np.uint32)), 4, "an item has two points"),
        (replace(drawn(), colours_M=np.array([0, 1, 0], np.uint8)), 4, "a colour without a name"),
    ],
)
def test_a_map_of_another_catalogue_is_refused(faulty: ItemMap, num_items: int, told: str, tmp_path: Path) -> None:
    write_map(tmp_path / "map.arrow", faulty)
    with pytest.raises(ReleaseMismatch, match=told):
        read_map(tmp_path / "map.arrow", num_items)


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.arrow"
    write_map(path, drawn())
    whole = path.read_bytes()
    table = pa.table({"item_row": pa.array([0], pa.uint32())}).replace_schema_metadata(
        {b"map": b'{"num_items":1,"num_placed":0}'}
    )
    with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for content in (b"", b"no map", whole[: len(whole) // 2], (tmp_path / "other.arrow").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ReleaseMismatch, match="twotower embed"):
            read_map(path, 4)
