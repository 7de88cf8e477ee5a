"""The map of a release from its directory, with a fake in place of UMAP."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.maps import drawing
from embedder_cache.maps.drawing import draw, draw_known, most_wanted
from twotower.artefacts.bundle import load_bundle, read_table
from twotower.artefacts.release import ITEMS, VECTORS, read_pointer, release_path
from twotower.data.features import Floats
from twotower.maps.item_map import MAP, read_map


def two_columns(units_MD: Floats, start_M2: Floats | None) -> Floats:
    return units_MD[:, :2]


def never(units_MD: Floats, start_M2: Floats | None) -> Floats:
    raise AssertionError("no places are computed tonight")


@pytest.fixture
def release(tiny_store: Path, tmp_path: Path) -> Path:
    """The directory of a release, as the job has it before it is sealed."""
    return Path(shutil.copytree(release_path(tiny_store, read_pointer(tiny_store).release), tmp_path / "release"))


def test_every_item_has_a_point_and_the_colour_of_its_department(release: Path) -> None:
    drawn = draw(release, None, None, two_columns)
    items = read_table(release / ITEMS)
    assert sorted(drawn.rows_M.tolist()) == list(range(400))
    assert (drawn.info.num_items, drawn.info.colour_column, drawn.info.region_column) == (400, "department", "department")
    departments = items["department"].to_pylist()
    for row, colour in zip(drawn.rows_M.tolist(), drawn.colours_M.tolist(), strict=True):
        assert departments[row] == (None if colour == 255 else drawn.info.colours[colour].name)


def test_the_file_holds_what_was_drawn(release: Path) -> None:
    drawn = draw(release, None, None, two_columns)
    read = read_map(release / MAP, 400)
    assert read.info == drawn.info
    np.testing.assert_array_equal(read.places_M2, drawn.places_M2)


def test_of_a_large_catalogue_the_items_most_in_demand_are_drawn(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_POINTS", 100)
    drawn = draw(release, None, None, two_columns)
    demand_N = np.load(release / VECTORS)[:, 32]
    assert len(drawn) == 100
    assert demand_N[drawn.rows_M].min() >= np.delete(demand_N, drawn.rows_M).max()
    assert drawn.info.num_items == 400


def test_of_items_with_equal_demand_the_first_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_POINTS", 2)
    assert most_wanted(np.array([[9, 1], [9, 2], [9, 1]], np.float32), 1).tolist() == [0, 1]


def test_the_next_night_keeps_every_place_and_puts_new_items_beside_their_neighbours(
    release: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Ten items go, twenty come, in another order of rows. Items are known by their ids."""
    items = pq.read_table(tiny_shop / "items.parquet")
    tonight = items.slice(10).take(pa.array(range(389, -1, -1)))
    new = items.slice(0, 20).set_column(0, "item_id", pa.array([f"new-{i}" for i in range(20)]))
    pq.write_table(pa.concat_tables([tonight, new]), tmp_path / "items.parquet")
    published = build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", tmp_path / "store", None)
    directory = release_path(tmp_path / "store", published.release)

    before, drawn = draw(release, None, None, two_columns), draw(directory, release, None, never)

    ids = [read_table(path / ITEMS)["item_id"].to_pylist() for path in (release, directory)]
    was, now = (
        {names[row]: tuple(place) for row, place in zip(one.rows_M.tolist(), one.places_M2.tolist(), strict=True)}
        for names, one in zip(ids, (before, drawn), strict=True)
    )
    assert len(now) == 410
    assert {item: place for item, place in now.items() if not item.startswith("new-")} == {
        item: was[item] for item in ids[1][:390]
    }
    assert drawn.info.num_placed == 20


def test_a_night_on_which_nothing_changed_draws_the_same_file(release: Path, tmp_path: Path) -> None:
    draw(release, None, None, two_columns)
    again = Path(shutil.copytree(release, tmp_path / "again"))
    draw(again, release, None, never)
    assert (again / MAP).read_bytes() == (release / MAP).read_bytes()


def test_new_items_that_are_left_out_do_not_count_as_put_beside_their_neighbours(
    release: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Twenty items come, and nothing else changes."""
    items = pq.read_table(tiny_shop / "items.parquet")
    new = items.slice(0, 20).set_column(0, "item_id", pa.array([f"new-{i}" for i in range(20)]))
    pq.write_table(pa.concat_tables([items, new]), tmp_path / "items.parquet")
    published = build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", tmp_path / "store", None)
    draw(release, None, None, two_columns)

    kept = draw_known(release_path(tmp_path / "store", published.release), release, None)

    assert (len(kept), kept.info.num_placed) == (400, 0)


def test_without_places_for_new_items_the_known_ones_stay_and_the_next_night_computes_all(release: Path, tmp_path: Path) -> None:
    draw(release, None, None, two_columns)
    other = Path(shutil.copytree(release, tmp_path / "other"))
    vectors_NV = np.load(other / VECTORS)
    np.save(other / VECTORS, vectors_NV[:, ::-1])  # of another embedder
    kept = draw_known(other, release, None)
    np.testing.assert_array_equal(kept.places_M2, read_map(release / MAP, 400).places_M2)
    assert kept.info.num_placed == 400

    starts: list[Floats | None] = []

    def noted(units_MD: Floats, start_M2: Floats | None) -> Floats:
        starts.append(start_M2)
        return units_MD[:, :2]

    third = Path(shutil.copytree(other, tmp_path / "third"))
    assert draw(third, other, None, noted).info.num_placed == 0
    assert len(starts) == 1
