"""The figures of a map, on maps made by hand."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from benchmarks import map as bench
from benchmarks.browser.chromium import find_chromium
from benchmarks.map import NEIGHBOURS, layouts, moved, quality, redraws
from benchmarks.report import Row
from twotower.data.features import Floats
from twotower.maps.item_map import SIDE, MapInfo, along_curve
from twotower.maps.neighbours import unit_vectors


def values(rows: list[Row]) -> dict[str, float]:
    return {row.metric: row.value for row in rows}


def test_the_quality_of_a_map_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    units_MD = unit_vectors(rng.normal(size=(200, 8)).astype(np.float32))
    places_M2 = rng.integers(0, SIDE, (200, 2)).astype(np.uint16)
    found = values(quality("q", units_MD, places_M2, np.arange(200)))
    assert found["q_trustworthiness"] == pytest.approx(trustworthiness(units_MD, places_M2.astype(float), n_neighbors=NEIGHBOURS))
    assert found["q_neighbours_kept"] == pytest.approx(NEIGHBOURS / 199, abs=0.03)


def test_a_map_that_is_what_the_vectors_are_is_perfect() -> None:
    turns_M = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 200))
    units_MD = np.stack([np.cos(turns_M), np.sin(turns_M)], 1).astype(np.float32)
    places_M2 = np.rint((units_MD + 1) * 32_000).astype(np.uint16)
    assert values(quality("q", units_MD, places_M2, np.arange(200)))["q_trustworthiness"] > 0.9999


def test_how_far_points_move_is_a_share_of_the_side() -> None:
    before_M2, now_M2 = np.zeros((4, 2), np.uint16), np.array([[0, 0], [0, SIDE // 2], [SIDE // 2, 0], [9, 9]], np.uint16)
    assert values(moved("m", before_M2, now_M2, np.array([1, 2]))) == {"m_moved_median": 0.5, "m_moved_p90": 0.5}


def test_a_night_with_new_items_computes_nothing_and_one_that_computes_all_begins_with_the_places_there_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[Floats | None] = []

    def two_columns(units_MD: Floats, start_M2: Floats | None) -> Floats:
        starts.append(start_M2)
        return units_MD[:, :2]

    monkeypatch.setattr(bench, "fit_umap", two_columns)
    units_MD = unit_vectors(np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32))
    rows, first = layouts(units_MD)
    found = values(rows)
    assert starts[0] is None
    np.testing.assert_array_equal(starts[1], first.places_M2)
    assert len(starts) == 2
    assert found["again_moved_p90"] < 0.001 < found["beside_moved_median"]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_redraws_are_timed_in_a_browser() -> None:
    places_M2 = np.random.default_rng(0).integers(0, SIDE, (300, 2)).astype(np.uint16)
    info, colours_M = MapInfo(num_items=300, num_placed=0), np.full(300, 255, np.uint8)
    drawn = along_curve(np.arange(300, dtype=np.uint32), places_M2, colours_M, info)
    assert values(redraws(drawn)).keys() == {
        "redraw_whole_p50_ms",
        "redraw_whole_p95_ms",
        "redraw_zoomed_p50_ms",
        "redraw_zoomed_p95_ms",
    }
