"""The map of the demo's catalogue: what its places cost, how well they keep neighbours, how far they move, how fast it is drawn.

M: points, S: points that are looked at, D: width of the vectors, K: neighbours
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.browser.chromium import browser
from benchmarks.browser.map_redraws import redraws_ms
from benchmarks.browser.playground import percentile
from benchmarks.demo import OUT as DEMO
from benchmarks.report import Row, write_report
from benchmarks.training_rivals.corpus import run_twotower
from embedder_cache.maps.drawing import Catalogue, coloured, most_wanted
from service.release.map_page import map_page
from service.release.served_map import serve_map
from twotower.artefacts.bundle import SCHEMA, read_config
from twotower.artefacts.release import read_pointer, release_path
from twotower.data.features import Floats, Ints
from twotower.data.schema import load_schema
from twotower.maps.fit import fit_umap
from twotower.maps.item_map import SIDE, ItemMap, Places
from twotower.maps.layout import Before, Layout, lay_out
from twotower.maps.neighbours import unit_vectors

NEIGHBOURS = 15
SAMPLED = 1000  # points whose neighbours are looked at
NEW = 0.05  # share of the points that one night brings


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.map", description=main.__doc__)
    parser.add_argument("--demo", type=Path, default=DEMO, help=f"what `twotower demo` left; made when missing ({DEMO})")
    args = parser.parse_args(argv)
    if not (args.demo / "store").exists():
        run_twotower("demo", "--once", "--out", args.demo)
    store = args.demo / "store"
    directory = release_path(store, read_pointer(store).release)
    catalogue, width = Catalogue.read(directory), read_config(directory).model.width
    rows_M = most_wanted(catalogue.vectors_NV, width)
    rows, first = layouts(unit_vectors(np.ascontiguousarray(catalogue.vectors_NV[rows_M, :width])))
    features = load_schema(directory / SCHEMA).items.features
    categorical = [name for name, kind in features.items() if kind == "categorical"]
    write_report("map", [*rows, *redraws(coloured(catalogue.items, rows_M, first, categorical, None))])
    return 0


def layouts(units_MD: Floats) -> tuple[list[Row], Layout]:
    """Figures of a first map, of a night that brings new items, and of one that computes all places again; and the first map."""
    points = np.random.default_rng(0).permutation(len(units_MD))
    new = points[: int(NEW * len(points))]
    first, first_s = timed(units_MD, None)
    places_M2, stays_M = first.places_M2.astype(np.float32), np.ones(len(points), bool)
    places_M2[new], stays_M[new] = np.nan, False
    beside, beside_s = timed(units_MD, Before(places_M2, stays_M, 0))
    again, again_s = timed(units_MD, Before(first.places_M2.astype(np.float32), np.zeros(len(points), bool), 0))
    taken_s = {"first": first_s, "beside": beside_s, "again": again_s}
    rows = [
        *(Row(metric=f"{name}_s", value=value, unit="s", better="lower") for name, value in taken_s.items()),
        *quality("first", units_MD, first.places_M2, points),
        *quality("beside", units_MD, beside.places_M2, new),
        *quality("again", units_MD, again.places_M2, points),
        *moved("beside", first.places_M2, beside.places_M2, new),
        *moved("again", first.places_M2, again.places_M2, points),
    ]
    return rows, first


def timed(units_MD: Floats, before: Before | None) -> tuple[Layout, float]:
    """A layout and the seconds that it took."""
    started_s = time.perf_counter()
    layout = lay_out(units_MD, fit_umap, before)
    return layout, time.perf_counter() - started_s


def quality(name: str, units_MD: Floats, places_M2: Places, points: Ints) -> list[Row]:
    """Trustworthiness (Venna & Kaski 2001), and the share of the nearest on the map that are among the most alike.

    Trustworthiness is 1 where whatever is near on the map is alike, and falls with the rank of what is not.
    """
    units, places = torch.from_numpy(units_MD), torch.from_numpy(places_M2.astype(np.float32))
    ranks_SK = np.stack([ranks(units, places, point) for point in points[:SAMPLED].tolist()])
    num_points = len(units_MD)
    beyond = np.maximum(ranks_SK - NEIGHBOURS, 0).mean()
    trustworthiness = 1 - 2 * beyond / (2 * num_points - 3 * NEIGHBOURS - 1)
    return [
        Row(metric=f"{name}_trustworthiness", value=float(trustworthiness), unit="", better="higher"),
        Row(metric=f"{name}_neighbours_kept", value=float((ranks_SK <= NEIGHBOURS).mean()), unit="", better="higher"),
    ]


def ranks(units: torch.Tensor, places: torch.Tensor, point: int) -> Ints:
    """The place of each of the nearest on the map among the others by likeness, from 1, [K]."""
    distances_M = ((places - places[point]) ** 2).sum(1)
    distances_M[point] = torch.inf
    nearest_K = distances_M.topk(NEIGHBOURS, largest=False).indices
    cosines_M = units @ units[point]
    cosines_M[point] = -torch.inf
    counts_K = (cosines_M[None] > cosines_M[nearest_K, None]).sum(1)
    return np.asarray(counts_K.numpy() + 1, np.int64)


def moved(name: str, before_M2: Places, now_M2: Places, points: Ints) -> list[Row]:
    """How far points moved, as a share of the side of the map."""
    apart_S = np.linalg.norm(before_M2[points].astype(float) - now_M2[points], axis=1) / SIDE
    return [
        Row(metric=f"{name}_moved_{label}", value=float(np.quantile(apart_S, share)), unit="sides", better="lower")
        for label, share in (("median", 0.5), ("p90", 0.9))
    ]


def redraws(drawn: ItemMap) -> list[Row]:
    """The time of a redraw in a browser without a GPU, with all points in view and with few."""
    items = [(str(row), None) for row in drawn.rows_M]
    page = map_page("map", "release", serve_map(drawn, "release", drawn.info.num_items).compressed, items)
    with tempfile.TemporaryDirectory(prefix="map-") as name, browser() as chromium, chromium.page() as tab:
        file = Path(name) / "map.html"
        file.write_text(page)
        whole, zoomed = redraws_ms(tab, file.as_uri())
    return [
        Row(metric=f"redraw_{what}_{label}_ms", value=percentile(taken, share), unit="ms", better="lower")
        for what, taken in (("whole", whole), ("zoomed", zoomed))
        for label, share in (("p50", 0.5), ("p95", 0.95))
    ]


if __name__ == "__main__":
    sys.exit(main())
