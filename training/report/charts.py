"""Line charts: what was measured over steps, or over lengths of a list.

R: points of a curve
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

from training.evaluation.metrics import Array
from twotower.report.charts import key_above, log_ticks
from twotower.report.parts import Figure
from twotower.report.svg import FAINT, FIRST, SECOND, THIRD, figure

SERIES = {"model": FIRST, "popularity": SECOND, "personal frequency": THIRD, "content knn": THIRD}
LEGEND = {"model": "first", "popularity": "second", "personal frequency": "third"}  # classes of the page's style
# Interleaved, so that two levels at the same height are both visible.
DASHES = {"popularity": (0, (4, 4)), "personal frequency": (4, (2, 6))}
LINES = {"model": "-", "popularity": "--", "personal frequency": ":", "content knn": ":"}
MOST_POINTS = 600  # of a noisy curve; a column has fewer pixels


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    x_R: Sequence[float]
    y_R: Sequence[float]
    series: str = "model"
    noisy: bool = False  # drawn pale, with the running mean on top
    marked: bool = False  # a dot at every point


@dataclass(frozen=True, slots=True)
class Level:
    """A dashed line across a chart."""

    y: float
    series: str


def chart(
    name: str,
    title: str,
    about: str,
    unit: str,
    curves: Sequence[Curve],
    levels: Sequence[Level] = (),
    boundaries: Sequence[float] = (),
    x: str = "step",
    logarithmic: bool = False,
) -> Figure:
    """A figure; `name` must be unique on the page, `boundaries` are the steps at which stages change."""

    def draw_all(axes: Axes) -> None:
        axes.set_xlabel(x)
        axes.set_ylabel(unit)
        for curve in curves:
            draw(axes, curve)
        if len(curves) > 1:
            key_above(axes)
        for level in levels:
            axes.axhline(level.y, color=SERIES[level.series], linewidth=1.5, linestyle=DASHES[level.series])
        for boundary in boundaries:
            axes.axvline(boundary, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.margins(x=0.02, y=0.12)
        if logarithmic:
            axes.set_xscale("log")
            log_ticks(axes.xaxis)
            axes.xaxis.set_major_locator(FixedLocator(list(curves[0].x_R) if curves else []))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return figure(name, title, about, draw_all)


def draw(axes: Axes, curve: Curve) -> None:
    """Draw one curve."""
    colour, dashes = SERIES[curve.series], LINES[curve.series]
    if curve.noisy:
        x_R, y_R = thinned(np.asarray(curve.x_R, float), np.asarray(curve.y_R, float))
        axes.plot(x_R, y_R, color=colour, linewidth=0.7, alpha=0.35)
        mean_R = running_mean(np.asarray(curve.y_R))
        few = np.unique(np.linspace(0, len(mean_R) - 1, MOST_POINTS // 2).astype(int))
        axes.plot(np.asarray(curve.x_R)[few], mean_R[few], color=colour, linewidth=1.8)
    else:
        mark = "o" if curve.marked else ""
        axes.plot(
            curve.x_R, curve.y_R, color=colour, linewidth=1.8, linestyle=dashes, marker=mark, markersize=4, label=curve.series
        )


def thinned(x_R: Array, y_R: Array) -> tuple[Array, Array]:
    """The least and the greatest value of each of a few hundred stretches, so that every peak stays."""
    if len(x_R) <= MOST_POINTS:
        return x_R, y_R
    kept = set()
    for part in np.array_split(np.arange(len(x_R)), MOST_POINTS // 2):
        kept |= {int(part[y_R[part].argmin()]), int(part[y_R[part].argmax()])}
    places = sorted(kept)
    return x_R[places], y_R[places]


def running_mean(values_R: Array, share: float = 0.03) -> Array:
    """Mean over a centred window of `share` of the curve; the window is shorter at both ends."""
    half = max(int(len(values_R) * share / 2), 1)
    sums = np.concatenate([[0.0], np.cumsum(values_R)])
    places = np.arange(len(values_R))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values_R))
    means: Array = (sums[last] - sums[first]) / (last - first)
    return means
