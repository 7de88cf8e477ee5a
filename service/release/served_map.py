"""The map of a release as it is sent: packed and compressed once, when the release is loaded.

N: items of the release, M: points
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from twotower.artefacts.manifest import Manifest
from twotower.maps.item_map import MAP, SIDE, ItemMap, read_map

MAGIC = b"TTM1"
_NO_POINT = -1


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON in front of the points."""

    release: str
    num_points: int
    num_items: int  # of the catalogue when the release was built
    side: int  # a place is two whole numbers from 0 up to, and without, this
    colour_column: str | None
    colours: list[dict[str, str | int]]  # name and number of points, by the colour of a point
    region_column: str | None
    regions: list[dict[str, str | int]]  # name, place, and number of points, the largest region first


@dataclass(frozen=True, slots=True)
class ServedMap:
    """A map, the body of its answer, and the way from items to points and back."""

    rows_M: npt.NDArray[np.uint32]  # item row of each point
    points_N: npt.NDArray[np.int32]  # point of each item row, -1 for an item that has none
    body: bytes
    compressed: bytes  # with gzip; brotli would save less than one part in a hundred more, at the same speed

    def point(self, row: int) -> int | None:
        """The point of an item of the release; None when it is not on the map, or was put after the release was built."""
        return int(self.points_N[row]) if row < len(self.points_N) and self.points_N[row] != _NO_POINT else None


def read_served_map(path: Path, manifest: Manifest, num_items: int) -> ServedMap | None:
    """The map of a release that was verified; None when it has none. ReleaseMismatch when the map is of other items."""
    return serve_map(read_map(path / MAP, num_items), manifest.id, num_items) if MAP in manifest.files else None


def serve_map(drawn: ItemMap, release: str, num_items: int) -> ServedMap:
    """A map made ready to be sent."""
    points_N = np.full(num_items, _NO_POINT, np.int32)
    points_N[drawn.rows_M] = np.arange(len(drawn))
    body = packed(drawn, release)
    return ServedMap(drawn.rows_M, points_N, body, gzip.compress(body, mtime=0))


def packed(drawn: ItemMap, release: str) -> bytes:
    """The map as bytes: TTM1, the length of the header as uint32 (little-endian), the header, and five bytes of each point.

    They stand in five rows: the low bytes of all x, their high bytes, those of y, and the colours. So they compress to about
    half, because points that follow each other lie near each other.
    """
    info = drawn.info
    header = msgspec.json.encode(
        Header(
            release=release,
            num_points=len(drawn),
            num_items=info.num_items,
            side=SIDE,
            colour_column=info.colour_column,
            colours=[msgspec.to_builtins(colour) for colour in info.colours],
            region_column=info.region_column,
            regions=[msgspec.to_builtins(region) for region in info.regions],
        )
    )
    x_M, y_M = drawn.places_M2.T
    rows = [x_M & 0xFF, x_M >> 8, y_M & 0xFF, y_M >> 8, drawn.colours_M]
    return b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *(row.astype(np.uint8).tobytes() for row in rows)])
