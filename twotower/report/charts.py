"""Drawings that several pages show: intervals, dots and bars, a row each, and logarithmic axes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from twotower.report.numbers import short
from twotower.report.parts import Kind
from twotower.report.svg import FAINT, FIRST, INK, PAPER, SECOND, THIRD, Draw

SERIES = ((FIRST, "o"), (SECOND, "s"), (THIRD, "D"))  # shape and colour, so that either alone tells them apart
MARKS = {"": "o", "better": "o", "undecided": "o", "worse": "D"}


@dataclass(frozen=True, slots=True)
class Whisker:
    """One estimate with its interval; a bound may be unknown."""

    label: str
    value: float
    low: float | None
    high: float | None
    kind: Kind = ""


def whiskers(rows: Sequence[Whisker], name: str, middle: float | None = None) -> Draw:
    """A point and its interval in each row, and a line at `middle`.

    Hollow points are undecided or have no bounds; worse ones are diamonds in the second colour.
    """

    def draw(axes: Axes) -> None:
        for place, row in enumerate(reversed(rows)):
            colour = {"worse": SECOND, "undecided": THIRD}.get(row.kind, FIRST)
            bounded = row.low is not None and row.high is not None
            if bounded:
                axes.plot([row.low or 0.0, row.high or 0.0], [place, place], color=colour, linewidth=1.8)
            fill = colour if bounded and row.kind != "undecided" else PAPER
            axes.plot(row.value, place, MARKS[row.kind], color=colour, markersize=5.5, markerfacecolor=fill)
        in_rows(axes, [row.label for row in rows])
        if middle is not None:
            axes.axvline(middle, color=FAINT, linewidth=0.9)
        axes.set_xlabel(name)

    return draw


def dots(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], name: str) -> Draw:
    """The values of several series in each row, each series in a shape and colour of its own."""

    def draw(axes: Axes) -> None:
        for (label, values), (colour, mark) in zip(series.items(), SERIES, strict=False):
            points = [(value, len(labels) - 1 - place) for place, value in enumerate(values) if value is not None]
            axes.plot(*np.reshape(points, (-1, 2)).T, mark, color=colour, markersize=5.5, label=label)
        in_rows(axes, labels)
        axes.set_xlabel(name)
        key_above(axes)

    return draw


def bars(counts: Mapping[str, int], name: str) -> Draw:
    """A bar for each class from the top, with its count at the end."""

    def draw(axes: Axes) -> None:
        drawn = axes.barh(list(counts), list(counts.values()), color=FIRST, height=0.7)
        axes.bar_label(drawn, [f"{count:,}" for count in counts.values()], padding=3, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.14)
        axes.set_xlabel(name)

    return draw


def in_rows(axes: Axes, labels: Sequence[str]) -> None:
    """A row for each label from the top, and a grid that leads down to the x axis."""
    axes.set_yticks(range(len(labels)), list(reversed(labels)))
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)


def log_ticks(axis: Axis, write: Callable[[float], str] = short) -> None:
    """Ticks of a logarithmic axis: 1, 2 and 5 of each decade, or decades alone where there are many."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(float(value))))
    axis.set_minor_locator(NullLocator())


def key(axes: Axes, title: str = "") -> None:
    """The legend, faint and without a frame, where it hides least."""
    legend = axes.legend(frameon=False, fontsize=8.5, labelcolor=FAINT, handlelength=1.6, labelspacing=0.25)
    legend.set_title(title)
    legend.get_title().set(fontsize=8.5, color=FAINT)


def key_above(axes: Axes) -> None:
    """The legend in a line above the axes."""
    axes.legend(frameon=False, fontsize=8.5, labelcolor=FAINT, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
