"""HTML pages in one file. All text is escaped unless it is Markup."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("page.css")


class Markup(str):
    """Text that is HTML already and is not escaped."""

    __slots__ = ()


def markup(value: object) -> Markup:
    """A value as HTML: escaped unless it is Markup."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def joined(parts: Sequence[object]) -> Markup:
    """Several values as HTML, one after the other."""
    return Markup("".join(map(markup, parts)))


def element(name: str, *content: object, kind: str = "") -> Markup:
    """An HTML element, with a class if `kind` is given."""
    opening = f'<{name} class="{escape(kind)}">' if kind else f"<{name}>"
    return Markup(f"{opening}{joined(content)}</{name}>")


def table(caption: object, columns: Sequence[object], rows: Sequence[Sequence[object]]) -> Markup:
    """A table whose first column has the names of rows. It scrolls on a narrow screen."""
    head = element("tr", *(element("th", column) for column in columns))
    body = [element("tr", element("th", row[0]), *(element("td", cell) for cell in row[1:])) for row in rows]
    # A caption element would be only as wide as its table.
    return joined(
        [
            element("p", caption, kind="faint"),
            element("div", element("table", element("thead", head), element("tbody", *body)), kind="scrolls"),
        ]
    )


def definitions(facts: Mapping[str, object]) -> Markup:
    """A list of names and values in two columns."""
    return element("dl", *(joined([element("dt", name), element("dd", value)]) for name, value in facts.items()))


def section(title: str, *content: object) -> Markup:
    """A section of the page with a heading."""
    return element("section", element("h2", title), *content)


def figure(title: str, drawing: object) -> Markup:
    """A drawing with a caption above it."""
    return element("figure", element("figcaption", title), drawing)


def page(title: str, *content: object) -> str:
    """The whole HTML file, with its style inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text()}</style></head>"
        f"<body><main>{joined(content)}</main></body></html>\n"
    )


def correlation_cell(value: float) -> Markup:
    """A correlation on a background of its colour; a dash for a metric that never changed."""
    if math.isnan(value):
        return element("span", "-", kind="faint")
    hue = "--popularity" if value > 0 else "--model"
    colour = f"color-mix(in srgb, var({hue}) {abs(value) * 70:.0f}%, var(--paper))"
    return Markup(f'<span style="background:{colour}">{value:+.2f}</span>')


def plain(values: dict[str, Any]) -> dict[str, str]:
    """Names and values formatted for a reader."""
    return {words(name): written(value) for name, value in values.items()}


def written(value: object) -> str:
    """One value formatted for a reader."""
    if isinstance(value, list | tuple):
        return " ".join(map(written, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def words(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def moment(iso: str) -> str:
    """A time in UTC, to the minute."""
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
