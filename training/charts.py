"""Curves as inline SVG that takes its colours and its font from the page around it.

R: points of a curve
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType

from training.metrics import Array
from training.page import Markup

SIZE_INCHES = (5.0, 2.7)  # drawn for a column of about 480 px: text keeps its size when columns stack on a narrow screen
# Stand-ins that the page's own colours replace, so that one drawing is right on light and on dark.
INK, FAINT, GRID = "#010203", "#010204", "#010205"
SERIES = {"model": "#010206", "popularity": "#010207", "personal frequency": "#010208"}
# Interleaved, so that levels at the same height both show.
DASHES = {"popularity": (0, (4, 4)), "personal frequency": (4, (4, 4))}
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    "#010206": "--model",
    "#010207": "--popularity",
    "#010208": "--personal",
}
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twotower",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    x_R: Sequence[float]
    y_R: Sequence[float]
    series: str = "model"
    noisy: bool = False  # drawn pale, with its running mean on top
    marked: bool = False  # a dot at every point


@dataclass(frozen=True, slots=True)
class Level:
    """A dashed line across a chart."""

    y: float
    series: str


def chart(name: str, curves: Sequence[Curve], levels: Sequence[Level] = (), boundaries: Sequence[float] = ()) -> Markup:
    """An SVG element; `name` must be unique on the page, `boundaries` are the steps at which stages change."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel("step")
        for curve in curves:
            draw(axes, curve)
        for level in levels:
            axes.axhline(level.y, color=SERIES[level.series], linewidth=1.3, linestyle=DASHES[level.series])
        for boundary in boundaries:
            axes.axvline(boundary, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.margins(x=0.02, y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return embedded(buffer.getvalue(), name)


def draw(axes: Axes, curve: Curve) -> None:
    """One curve."""
    colour = SERIES[curve.series]
    if curve.noisy:
        axes.plot(curve.x_R, curve.y_R, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(curve.x_R, running_mean(np.asarray(curve.y_R)), color=colour, linewidth=1.8)
    else:
        axes.plot(curve.x_R, curve.y_R, color=colour, linewidth=1.8, marker="o" if curve.marked else "", markersize=4)


def running_mean(values_R: Array, share: float = 0.03) -> Array:
    """Mean over a centred window of `share` of the curve, shorter at its ends."""
    half = max(int(len(values_R) * share / 2), 1)
    sums = np.concatenate([[0.0], np.cumsum(values_R)])
    places = np.arange(len(values_R))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values_R))
    means: Array = (sums[last] - sums[first]) / (last - first)
    return means


def embedded(svg: str, name: str) -> Markup:
    """The element alone, its ids made unique to the page, its colours those of the page, as wide as its column."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"', r'\1role="img"', svg, count=1)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return Markup(svg)
