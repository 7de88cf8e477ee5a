"""The charts on the page of a run.

R: points of a curve
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from training.evaluation.metrics import Array
from twotower.report.page import Markup
from twotower.report.svg import FAINT, MODEL, PERSONAL, POPULARITY, drawing

SERIES = {"model": MODEL, "popularity": POPULARITY, "personal frequency": PERSONAL}
# Interleaved, so that two levels at the same height are both visible.
DASHES = {"popularity": (0, (4, 4)), "personal frequency": (4, (4, 4))}


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


def chart(name: str, curves: Sequence[Curve], levels: Sequence[Level] = (), boundaries: Sequence[float] = ()) -> Markup:
    """An SVG element; `name` must be unique on the page, `boundaries` are the steps at which stages change."""

    def draw_all(axes: Axes) -> None:
        axes.set_xlabel("step")
        for curve in curves:
            draw(axes, curve)
        for level in levels:
            axes.axhline(level.y, color=SERIES[level.series], linewidth=1.3, linestyle=DASHES[level.series])
        for boundary in boundaries:
            axes.axvline(boundary, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.margins(x=0.02, y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return drawing(name, draw_all)


def draw(axes: Axes, curve: Curve) -> None:
    """Draw one curve."""
    colour = SERIES[curve.series]
    if curve.noisy:
        axes.plot(curve.x_R, curve.y_R, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(curve.x_R, running_mean(np.asarray(curve.y_R)), color=colour, linewidth=1.8)
    else:
        axes.plot(curve.x_R, curve.y_R, color=colour, linewidth=1.8, marker="o" if curve.marked else "", markersize=4)


def running_mean(values_R: Array, share: float = 0.03) -> Array:
    """Mean over a centred window of `share` of the curve; the window is shorter at both ends."""
    half = max(int(len(values_R) * share / 2), 1)
    sums = np.concatenate([[0.0], np.cumsum(values_R)])
    places = np.arange(len(values_R))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values_R))
    means: Array = (sums[last] - sums[first]) / (last - first)
    return means
