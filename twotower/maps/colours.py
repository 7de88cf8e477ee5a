"""What a map says beside places: the colour of each point, and the names of the regions.

M: points, S: points of one kind
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.maps.item_map import MAX_COLOURS, NO_COLOUR, SIDE, Colour, Colours, Places, Region

MOST_VALUES = 64  # of a column that colours by itself: more colours cannot be told apart
MOST_KINDS = 5000  # of a column that names regions by itself: more would be names of single items
MOST_REGIONS = 400
_CELL = SIDE // 32  # regions are looked for in squares of this side


def choose_columns(table: pa.Table, categorical: Sequence[str], wanted: str | None = None) -> tuple[str | None, str | None]:
    """The column that colours the points and the one that names regions; None where there is none.

    By default the first categorical column with 2 to 64 values colours. The first with more values names the regions, or else
    the one that colours does.
    """
    counts = {name: pc.count_distinct(table.column(name), mode="only_valid").as_py() for name in categorical}
    colour = wanted or next((name for name in categorical if 2 <= counts[name] <= MOST_VALUES), None)
    least = counts[colour] if colour else 1
    finer = (name for name in categorical if name != colour and least < counts[name] <= MOST_KINDS)
    return colour, next(finer, colour)


def colour_points(values: pa.ChunkedArray) -> tuple[Colours, tuple[Colour, ...]]:
    """The colour [M] of each value and the names of the colours: of the 255 most frequent values, the most frequent first."""
    names, codes_M = _encoded(values)
    counts = np.bincount(codes_M[codes_M >= 0], minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))[:MAX_COLOURS]
    colour_of = np.full(len(names) + 1, NO_COLOUR, np.uint8)  # the last one is that of a missing value, whose code is -1
    colour_of[order] = np.arange(len(order))
    return colour_of[codes_M], tuple(Colour(name=names[code], count=int(counts[code])) for code in order)


def name_regions(values: pa.ChunkedArray, places_M2: Places) -> tuple[Region, ...]:
    """A name for each kind that many points are of, at the spot where its points lie densest; the largest first."""
    names, codes_M = _encoded(values)
    order = np.argsort(codes_M, kind="stable")
    bounds = np.searchsorted(codes_M[order], np.arange(len(names) + 1))
    least = max(3, len(places_M2) // 4000)
    regions = [
        Region(name=name, x=x, y=y, count=count)
        for code, name in enumerate(names)
        if bounds[code + 1] - bounds[code] >= least
        for x, y, count in [densest(places_M2[order[bounds[code] : bounds[code + 1]]])]
    ]
    return tuple(sorted(regions, key=lambda region: (-region.count, region.name))[:MOST_REGIONS])


def densest(places_S2: Places) -> tuple[int, int, int]:
    """Where these points lie densest, as x and y of their median there, and how many are there."""
    cells_S2 = places_S2 // _CELL
    cells, counts = np.unique(cells_S2, axis=0, return_counts=True)
    there_S = (np.abs(cells_S2.astype(np.int64) - cells[counts.argmax()]) <= 1).all(1)
    x, y = np.median(places_S2[there_S], axis=0)
    return int(x), int(y), int(np.count_nonzero(there_S))


def _encoded(values: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct values as text, and the number [M] of each value among them, -1 where it is missing."""
    encoded = pc.cast(values, pa.string()).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
