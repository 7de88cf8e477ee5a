"""Drawings as inline SVG, with colours and font from the page around them."""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from twotower.report.page import STYLE as STYLE_SHEET
from twotower.report.page import Markup

SIZE_INCHES = (5.0, 2.7)  # for a column of about 480 px, so that text keeps its size on a narrow screen
# Placeholders that the page's colours replace, so that one drawing suits light and dark pages.
INK, FAINT, GRID = "#010203", "#010204", "#010205"
MODEL, POPULARITY, PERSONAL = "#010206", "#010207", "#010208"
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    MODEL: "--model",
    POPULARITY: "--popularity",
    PERSONAL: "--personal",
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


def drawing(name: str, draw: Callable[[Axes], None]) -> Markup:
    """The SVG element of what `draw` draws on the axes. `name` must be unique on the page."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return embedded(buffer.getvalue(), name)


def embedded(svg: str, name: str) -> Markup:
    """The SVG element alone, with ids unique to the page, the page's colours, and the width of its column."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"', r'\1role="img"', svg, count=1)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return Markup(svg)


def standalone(svg: str) -> str:
    """A drawing as a file of its own: on white, in the colours of a light page."""
    light = STYLE_SHEET.read_text().partition("}")[0]
    for variable in VARIABLES.values():
        found = re.search(rf"{variable}: (#[0-9a-f]+)", light)
        assert found, f"{variable} is a colour of the page"
        svg = svg.replace(f"var({variable})", found[1])
    style = "<style>text { font-family: system-ui, sans-serif !important; }</style>"
    return re.sub(r"(<svg [^>]*>)", rf'\1{style}<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1) + "\n"
