"""What a page is made of. Code fills these in, and the templates beside this file show them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from twotower.report.numbers import NOTHING, signed

Kind = Literal["", "better", "undecided", "worse"]  # the colour of a verdict; a word or a sign always says the same
Facts = Mapping[str, str]  # names and values


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the reader should do, in one sentence, and why."""

    kind: Kind
    says: str
    because: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure in large print. `within` is its interval."""

    name: str
    value: str
    about: str = ""
    within: str = ""
    kind: Kind = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table. `under` stands below the text in small type."""

    text: str
    under: str = ""
    kind: Kind = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows. `about` says in a sentence what it shows.

    On a phone each row of a table of more than three columns is a block, so that nothing scrolls sideways.
    """

    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclass(frozen=True, slots=True)
class Correlation:
    """A rank correlation on a background of its colour; a dash if one of the two never changed."""

    value: float
    between: str  # the other metric

    @property
    def text(self) -> str:
        """The value as it is written."""
        return NOTHING if math.isnan(self.value) else signed(self.value, 2)

    @property
    def background(self) -> Markup:
        """A colour that is as strong as the correlation."""
        if math.isnan(self.value):
            return Markup("none")
        hue = "--second" if self.value > 0 else "--first"
        return Markup(f"color-mix(in srgb, var({hue}) {abs(self.value) * 55:.0f}%, var(--paper))")  # noqa: S704  # numbers


@dataclass(frozen=True, slots=True)
class Matrix:
    """The lower triangle of rank correlations between metrics."""

    about: str
    metrics: Sequence[str]
    rows: Sequence[Sequence[Correlation]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its title, and in a sentence what it means."""

    name: str  # unique on the page
    title: str
    about: str
    drawing: Markup


def triangle(about: str, metrics: Sequence[str], correlation: Sequence[Sequence[float]]) -> Matrix:
    """A matrix of correlations [metrics, metrics]."""
    rows = [
        [Correlation(float(value), other) for value, other in zip(correlation[place][: place + 1], metrics, strict=False)]
        for place in range(len(metrics))
    ]
    return Matrix(about, metrics, rows)
