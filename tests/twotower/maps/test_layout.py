"""Places from night to night. The fit is a fake: what it is given and what becomes of its places is what is tested."""

import numpy as np
import pytest

from twotower.data.features import Floats
from twotower.maps.item_map import SIDE
from twotower.maps.layout import Before, aligned, framed, inside, lay_out
from twotower.maps.neighbours import unit_vectors

UNITS_MD = unit_vectors(np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32))
YESTERDAY_M2 = np.random.default_rng(1).integers(2000, 60_000, (100, 2)).astype(np.float32)


class Fit:
    """Takes down what it was asked, and answers with the first two columns of the vectors."""

    def __init__(self) -> None:
        self.starts: list[Floats | None] = []

    def __call__(self, units_MD: Floats, start_M2: Floats | None) -> Floats:
        self.starts.append(start_M2)
        return units_MD[:, :2]


def before(num_new: int, num_placed: int = 0, num_changed: int = 0) -> Before:
    """Yesterday's map without the first items, of which the next ones have other vectors today."""
    places_M2, stays_M = YESTERDAY_M2.copy(), np.ones(100, bool)
    places_M2[:num_new] = np.nan
    stays_M[: num_new + num_changed] = False
    return Before(places_M2, stays_M, num_placed)


def test_the_first_night_computes_all_places_and_fills_the_map() -> None:
    fit = Fit()
    layout = lay_out(UNITS_MD, fit)
    assert [start is None for start in fit.starts] == [True]
    assert layout.num_placed == 0
    spans = layout.places_M2.max(0).astype(int) - layout.places_M2.min(0)
    assert spans.max() == pytest.approx(0.96 * SIDE, abs=1)


def test_items_whose_vectors_stay_keep_their_places_to_the_last_bit() -> None:
    fit = Fit()
    layout = lay_out(UNITS_MD, fit, before(num_new=5, num_changed=3))
    assert fit.starts == []
    np.testing.assert_array_equal(layout.places_M2[8:], YESTERDAY_M2[8:])
    assert layout.num_placed == 8


def test_a_night_on_which_nothing_changed_changes_no_place() -> None:
    layout = lay_out(UNITS_MD, Fit(), before(num_new=0, num_placed=7))
    np.testing.assert_array_equal(layout.places_M2, YESTERDAY_M2)
    assert layout.num_placed == 7


def test_a_new_item_is_put_amid_the_larger_group_of_its_neighbours() -> None:
    """Its five nearest lie in two places: three at the left, two at the right. The middle between would be nowhere."""
    units_MD = unit_vectors(
        np.array([[1, 0], *[[1, 0.01 * i] for i in range(1, 6)], *[[-1, 0.1 * i] for i in range(30)]], np.float32)
    )
    places_M2 = np.full((36, 2), 50_000, np.float32)
    places_M2[[1, 2, 3]], places_M2[[4, 5]], places_M2[0] = [1000, 2000], [40_000, 2000], np.nan
    stays_M = np.arange(36) > 0
    layout = lay_out(units_MD, Fit(), Before(places_M2, stays_M, 0))
    assert np.abs(layout.places_M2[0].astype(int) - [1000, 2000]).max() < 100


def test_with_too_many_put_beside_neighbours_all_places_are_computed_from_where_they_were() -> None:
    """20 of 100 may be: here 15 of earlier nights, and 6 of tonight."""
    fit = Fit()
    lay_out(UNITS_MD, fit, before(num_new=5, num_placed=15))
    assert fit.starts == []
    layout = lay_out(UNITS_MD, fit, before(num_new=6, num_placed=15))
    assert layout.num_placed == 0
    (start_M2,) = fit.starts
    assert start_M2 is not None
    np.testing.assert_array_equal(start_M2[6:], YESTERDAY_M2[6:])
    assert np.isfinite(start_M2).all()


def test_another_embedder_keeps_the_map_as_a_whole_where_it_was() -> None:
    """No vector stays. The fit turns, mirrors, stretches and moves yesterday's map: that is undone."""

    def turning(units_MD: Floats, start_M2: Floats | None) -> Floats:
        assert start_M2 is not None
        turn_22 = np.array([[0, 3], [3, 0]], np.float32)
        return np.asarray(start_M2 @ turn_22 + 7, np.float32)

    layout = lay_out(UNITS_MD, turning, Before(YESTERDAY_M2, np.zeros(100, bool), 0))
    assert np.abs(layout.places_M2 - YESTERDAY_M2).max() <= 1


def test_alignment_undoes_a_turn_and_leaves_points_without_a_yesterday_in_their_relation() -> None:
    now_M2 = np.array([[0, 0], [1, 0], [0, 2], [5, 5]], np.float32)
    then_M2 = np.array([[10, 10], [10, 12], [6, 10], [np.nan, np.nan]], np.float32)  # turned by a quarter, twice as large
    np.testing.assert_allclose(aligned(now_M2, then_M2, ~np.isnan(then_M2[:, 0])), [*then_M2[:3], [0, 20]], atol=1e-4)


def test_places_beyond_the_map_shrink_it_and_others_stay() -> None:
    middle = SIDE / 2
    within = np.array([[middle - 1000, middle + 2000]], np.float32)
    np.testing.assert_allclose(inside(within), within)
    shrunk = inside(np.array([[middle - SIDE, middle], [middle, middle + SIDE / 2]], np.float32))
    np.testing.assert_allclose(shrunk, [[0.02 * SIDE, middle], [middle, middle + 0.24 * SIDE]], rtol=1e-5)


def test_a_map_keeps_its_shape_in_its_frame() -> None:
    np.testing.assert_allclose(framed(np.array([[0, 0], [4, 2]], np.float32)) / SIDE, [[0.02, 0.26], [0.98, 0.74]], rtol=1e-6)


def test_one_point_lies_in_the_middle() -> None:
    layout = lay_out(UNITS_MD[:1], Fit())
    assert layout.places_M2.tolist() == [[SIDE // 2, SIDE // 2]]
