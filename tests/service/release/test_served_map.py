import gzip
import json

import numpy as np

from service.release.served_map import packed, serve_map
from twotower.maps.item_map import NO_COLOUR, Colour, ItemMap, MapInfo, Region, along_curve


def small() -> ItemMap:
    info = MapInfo(
        num_items=5,
        num_placed=0,
        colour_column="department",
        region_column="type",
        colours=(Colour(name="tea", count=2),),
        regions=(Region(name="green", x=258, y=3, count=2),),
    )
    places_M2 = np.array([[258, 3], [1, 2], [65_535, 0]], np.uint16)
    return ItemMap(np.array([4, 0, 2], np.uint32), places_M2, np.array([0, 0, NO_COLOUR], np.uint8), info)


def test_a_map_is_packed_as_the_page_on_the_interface_says() -> None:
    body = packed(small(), "release-1")
    assert body[:4] == b"TTM1"
    length = int.from_bytes(body[4:8], "little")
    assert json.loads(body[8 : 8 + length]) == {
        "release": "release-1",
        "num_points": 3,
        "num_items": 5,
        "side": 65_536,
        "colour_column": "department",
        "colours": [{"name": "tea", "count": 2}],
        "region_column": "type",
        "regions": [{"name": "green", "x": 258, "y": 3, "count": 2}],
    }
    x_low, x_high, y_low, y_high, colours = ([*body[8 + length + 3 * row :][:3]] for row in range(5))
    assert (x_low, x_high, y_low, y_high, colours) == ([2, 1, 255], [1, 0, 255], [3, 2, 0], [0, 0, 0], [0, 0, 255])
    assert len(body) == 8 + length + 5 * 3


def test_an_item_is_found_by_its_row_unless_it_is_not_on_the_map() -> None:
    served = serve_map(small(), "release-1", 5)
    assert [served.point(row) for row in range(5)] == [1, None, 2, None, 0]
    assert served.point(5) is None  # put after the release was built


def test_the_compressed_body_is_the_body_and_takes_less_than_two_thirds() -> None:
    """100,000 points in 300 heaps. In the order of their rows, and place by place, they would hardly get smaller."""
    rng = np.random.default_rng(0)
    heaps_M = rng.integers(0, 300, 100_000)
    places_M2 = rng.uniform(5000, 60_000, (300, 2))[heaps_M] + rng.normal(scale=700, size=(100_000, 2))
    colours = tuple(Colour(name=str(i), count=1) for i in range(20))
    info = MapInfo(num_items=100_000, num_placed=0, colours=colours)
    rows_M, colours_M = np.arange(100_000, dtype=np.uint32), (heaps_M % 20).astype(np.uint8)
    served = serve_map(along_curve(rows_M, places_M2.astype(np.uint16), colours_M, info), "release-1", 100_000)
    assert gzip.decompress(served.compressed) == served.body
    assert len(served.compressed) < 0.65 * len(served.body)
