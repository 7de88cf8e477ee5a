"""The map of a catalogue and its file in a release, map.arrow: data only, as all files of a release.

N: items of the catalogue, M: points of the map
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.errors import ReleaseMismatch

MAP = "map.arrow"
SIDE = 65_536  # a place is two whole numbers from 0 to SIDE - 1
MAX_POINTS = 100_000  # a browser draws as many smoothly
MAX_COLOURS = 255
NO_COLOUR = 255  # the colour of a point whose item has no value, or a value without a colour of its own
_INFO = b"map"
_COLUMNS = pa.schema([("item_row", pa.uint32()), ("x", pa.uint16()), ("y", pa.uint16()), ("colour", pa.uint8())])

Rows = npt.NDArray[np.uint32]
Places = npt.NDArray[np.uint16]
Colours = npt.NDArray[np.uint8]


class Colour(msgspec.Struct, frozen=True, kw_only=True):
    """A value of the column that colours the points."""

    name: str
    count: int  # points that have it


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """A name written into the map where most items of one kind lie."""

    name: str
    x: int
    y: int
    count: int  # points of that kind there


class MapInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is said about all points."""

    num_items: int  # of the catalogue; above the number of points, only the items most in demand are on the map
    num_placed: int  # points that were put beside their neighbours since all places were last computed
    colour_column: str | None = None
    region_column: str | None = None
    colours: tuple[Colour, ...] = ()  # the most frequent one first; a point's colour counts from 0 here
    regions: tuple[Region, ...] = ()  # the largest one first


@dataclass(frozen=True, slots=True)
class ItemMap:
    """Points along a Z-curve, so that neighbours in the plane are near each other in the file and compress well."""

    rows_M: Rows  # the item row of each point
    places_M2: Places  # x from left to right, y from the bottom up
    colours_M: Colours
    info: MapInfo

    def __len__(self) -> int:
        return len(self.rows_M)


def along_curve(rows_M: Rows, places_M2: Places, colours_M: Colours, info: MapInfo) -> ItemMap:
    """A map of these points, put into the order of the Z-curve; points at one place in the order of their rows."""
    order = np.lexsort((rows_M, morton(places_M2)))
    return ItemMap(rows_M[order], places_M2[order], colours_M[order], info)


def morton(places_M2: Places) -> npt.NDArray[np.uint64]:
    """The number of each place along a Z-curve (Morton 1966): the bits of x and y take turns."""
    spread = places_M2.astype(np.uint64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
    return spread[:, 0] | (spread[:, 1] << np.uint64(1))


def write_map(path: Path, drawn: ItemMap) -> None:
    """Write a map. Equal maps give equal bytes."""
    columns = [drawn.rows_M, drawn.places_M2[:, 0], drawn.places_M2[:, 1], drawn.colours_M]
    schema = _COLUMNS.with_metadata({_INFO: msgspec.json.encode(drawn.info)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table([pa.array(np.ascontiguousarray(column)) for column in columns], schema=schema))


def read_map(path: Path, num_items: int) -> ItemMap:
    """The map in a file, for a catalogue of `num_items`; ReleaseMismatch when it is none, or names rows beyond the catalogue."""
    try:
        with pa.OSFile(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        info = msgspec.json.decode((table.schema.metadata or {})[_INFO], type=MapInfo)
    except (OSError, pa.ArrowInvalid, KeyError, msgspec.DecodeError) as error:
        raise _mismatch(path, f"it cannot be read as a map: {error}") from error
    if not table.schema.equals(_COLUMNS) or any(column.null_count for column in table.columns):
        raise _mismatch(path, "it has not the columns of a map")
    rows_M, x_M, y_M, colours_M = (table.column(name).to_numpy() for name in _COLUMNS.names)
    drawn = ItemMap(rows_M, np.stack([x_M, y_M], 1), colours_M, info)
    if fault := fault_of(drawn, num_items):
        raise _mismatch(path, fault)
    return drawn


def fault_of(drawn: ItemMap, num_items: int) -> str | None:
    """Why a map cannot be of a catalogue of `num_items`; None for a sound one."""
    if len(drawn) and int(drawn.rows_M.max()) >= num_items:
        return f"a point is of item row {int(drawn.rows_M.max())}, the catalogue has {num_items}"
    if len(np.unique(drawn.rows_M)) < len(drawn):
        return "an item has two points"
    if ((drawn.colours_M >= len(drawn.info.colours)) & (drawn.colours_M != NO_COLOUR)).any():
        return "a point has a colour without a name"
    return None


def _mismatch(path: Path, fault: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{path}: {fault}. Publish the release again with `twotower embed`.")
