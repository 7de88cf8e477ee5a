"""What the drawings show."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.training.laws.synthetic_runs import BEHAVIOUR, isoflop_grid
from training.laws.batch import AT_FIXED_EVENTS, fit_knee
from training.laws.isoflop import fit_isoflop
from training.laws.valley import Group, fit_curve
from training.report import law_figures as figures
from twotower.planning.compute_optimal import short
from twotower.planning.law import Interval
from twotower.report.svg import PAPER, SECOND


def test_every_valley_with_a_bottom_has_a_star_at_it() -> None:
    curves = fit_isoflop(*isoflop_grid(BEHAVIOUR, noise=0.005)).curves
    axes = Figure().add_subplot()
    figures.valleys(axes, "set_loss", curves, "parameters")
    stars = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"]  # type: ignore[index]
    assert stars == [curve.found.optimum.value for curve in curves if curve.found]
    assert len(stars) == 5


def test_a_valley_without_a_bottom_is_dotted_and_has_no_star() -> None:
    sizes = np.array([1e3, 1e4, 1e5, 1e6])
    axes = Figure().add_subplot()
    figures.valleys(axes, "set_loss", [fit_curve(Group(1e12, sizes, -np.log10(sizes)), "sizes", short)], "parameters")
    assert [line.get_linestyle() for line in axes.lines] == [":"]


def test_recall_is_drawn_as_recall_and_not_as_what_is_fitted() -> None:
    sizes = np.array([1e3, 1e4, 1e5, 1e6])
    curve = fit_curve(Group(1e12, sizes, 0.8 + 0.01 * (np.log10(sizes) - 4.5) ** 2), "sizes", short)
    axes = Figure().add_subplot()
    figures.valleys(axes, "recall@10", [curve], "parameters")
    assert axes.collections[0].get_offsets()[0, 1] == pytest.approx(0.2 - 0.0225)  # type: ignore[index]


def test_a_knee_is_marked_only_if_there_is_one() -> None:
    batch = 2.0 ** np.arange(6, 12).astype(np.float64)
    for loss, marked in ((np.log1p(batch / 500), True), (np.ones(6), False)):
        axes = Figure().add_subplot()
        figures.knee(axes, fit_knee("set_loss", AT_FIXED_EVENTS, 1e12, None, batch, loss))
        assert any(line.get_color() == SECOND for line in axes.lines) == marked


def test_an_estimate_without_bounds_is_a_hollow_point_without_a_whisker() -> None:
    axes = Figure().add_subplot()
    figures.whisker_rows([("bounded", Interval(1.0, 0.5, 2.0)), ("not", Interval(1.0, None, 2.0))], "share")(axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["not", "bounded"]
    assert next(line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o") == PAPER


@pytest.mark.parametrize(
    ("value", "written"), [(0.02, "2 %"), (1.0, "100 %"), (64, "64"), (2e4, "20k"), (1e5, "100k"), (5e9, "5B")]
)
def test_ticks_are_shares_in_per_cent_or_counts_with_units(value: float, written: str) -> None:
    assert figures.tick(value) == written


def test_few_series_have_colours_far_apart() -> None:
    assert figures.colours(2) == [figures.COLOURS[0], figures.COLOURS[-1]]
    assert len(figures.colours(9)) == 9


def test_budgets_are_written_as_they_are() -> None:
    assert [figures.budget(flops) for flops in (1e11, 2.5e11, 1.5e12)] == ["1e11", "2.5e11", "1.5e12"]
