"""The map of a release that is being built, drawn from its directory and that of the release served now.

N: items, M: points, V: width of the item vectors, D: width of the embeddings among them
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.artefacts.bundle import SCHEMA, read_config
from twotower.artefacts.parts import read_items, read_vectors
from twotower.artefacts.release import read_info
from twotower.data.features import Floats, Ints
from twotower.data.schema import load_schema
from twotower.maps.colours import choose_columns, colour_points, name_regions
from twotower.maps.item_map import MAP, MAX_POINTS, NO_COLOUR, ItemMap, MapInfo, along_curve, read_map, write_map
from twotower.maps.layout import Before, Fit, Layout, lay_out, quantised
from twotower.maps.neighbours import unit_vectors
from twotower.model.catalogue import ID_FIELD


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items and vectors in the directory of a release."""

    items: pa.Table
    vectors_NV: Floats

    @classmethod
    def read(cls, directory: Path) -> "Catalogue":
        """Those of a directory that was verified, or is being built."""
        info = read_info(directory)
        return cls(read_items(directory, info), read_vectors(directory, info))

    def ids(self, rows: Ints) -> pa.Array:
        """The ids of some items."""
        return self.items.column(ID_FIELD).take(pa.array(rows)).combine_chunks()


def draw(directory: Path, served: Path | None, colour: str | None, fit: Fit) -> ItemMap:
    """Draw the map of the release in `directory` and write it there. `served` is the release served now, if that has a map."""
    catalogue, width = Catalogue.read(directory), read_config(directory).model.width
    rows_M = most_wanted(catalogue.vectors_NV, width)
    embeddings_MD = np.ascontiguousarray(catalogue.vectors_NV[rows_M, :width])
    before = night_before(served, catalogue.ids(rows_M), embeddings_MD) if served else None
    return finish(directory, catalogue.items, rows_M, lay_out(unit_vectors(embeddings_MD), fit, before), colour)


def draw_known(directory: Path, served: Path, colour: str | None) -> ItemMap:
    """As `draw`, when no places can be computed: only items on the map of `served` are drawn, at their places there."""
    catalogue, width = Catalogue.read(directory), read_config(directory).model.width
    rows_M = most_wanted(catalogue.vectors_NV, width)
    before = night_before(served, catalogue.ids(rows_M), np.ascontiguousarray(catalogue.vectors_NV[rows_M, :width]))
    known_M = before.known_M
    kept = Before(before.places_M2[known_M], before.stays_M[known_M], before.num_placed)
    layout = Layout(quantised(kept.places_M2), kept.num_to_place)
    return finish(directory, catalogue.items, rows_M[known_M], layout, colour)


def finish(directory: Path, items: pa.Table, rows_M: Ints, layout: Layout, colour: str | None) -> ItemMap:
    """The map with colours and regions, written into the directory of its release."""
    features = load_schema(directory / SCHEMA).items.features
    categorical = [name for name, kind in features.items() if kind == "categorical"]
    drawn = coloured(items, rows_M, layout, categorical, colour)
    write_map(directory / MAP, drawn)
    return drawn


def most_wanted(vectors_NV: Floats, width: int) -> Ints:
    """Rows [M] of the items on the map, in order: all, or those most in demand, by their first popularity dimension."""
    if len(vectors_NV) <= MAX_POINTS:
        return np.arange(len(vectors_NV), dtype=np.int64)
    return np.sort(np.argsort(-vectors_NV[:, width], kind="stable")[:MAX_POINTS])


def night_before(served: Path, item_ids: pa.Array, embeddings_MD: Floats) -> Before:
    """Where these items are on the map of the release served now, and which of them have the embeddings they had."""
    catalogue = Catalogue.read(served)
    old = read_map(served / MAP, len(catalogue.items))
    known_ids = catalogue.ids(old.rows_M.astype(np.int64))
    points_M = pc.index_in(item_ids, known_ids).fill_null(-1).to_numpy(zero_copy_only=False)
    known_M = points_M >= 0
    places_M2, stays_M = np.full((len(points_M), 2), np.nan, np.float32), np.zeros(len(points_M), bool)
    places_M2[known_M] = old.places_M2[points_M[known_M]]
    before_KD = catalogue.vectors_NV[old.rows_M[points_M[known_M]], : embeddings_MD.shape[1]]
    if before_KD.shape[1] == embeddings_MD.shape[1]:
        stays_M[known_M] = (before_KD == embeddings_MD[known_M]).all(1)
    return Before(places_M2, stays_M, old.info.num_placed)


def coloured(items: pa.Table, rows_M: Ints, layout: Layout, categorical: list[str], colour: str | None) -> ItemMap:
    """The map with the colours of its points and the names of its regions."""
    shown = items.select(categorical).take(pa.array(rows_M))
    colour, region = choose_columns(shown, categorical, colour)
    colours_M, colours = colour_points(shown.column(colour)) if colour else (np.full(len(rows_M), NO_COLOUR, np.uint8), ())
    info = MapInfo(
        num_items=len(items),
        num_placed=layout.num_placed,
        colour_column=colour,
        region_column=region,
        colours=colours,
        regions=name_regions(shown.column(region), layout.places_M2) if region else (),
    )
    return along_curve(rows_M.astype(np.uint32), layout.places_M2, colours_M, info)
