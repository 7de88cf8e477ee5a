"""Drawings as inline SVG, with colours and font from the page around them."""

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree
from zlib import crc32

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.typing import RcKeyType

from twotower.report.page import STYLE as STYLE_SHEET
from twotower.report.parts import Figure

SIZE_INCHES = (5.2, 2.9)  # for a column of 340 to 580 px, in which the type is readable
ROW_INCHES, LEAST_INCHES = 0.27, 1.1  # height of a row of whiskers or bars, and of the axis below
# Placeholders that the page's colours replace, so that one drawing suits light and dark pages.
INK, FAINT, GRID = "#010203", "#010204", "#010205"
FIRST, SECOND, THIRD, PAPER = "#010206", "#010207", "#010208", "#010209"
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    FIRST: "--first",
    SECOND: "--second",
    THIRD: "--third",
    PAPER: "--paper",
}
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twotower",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 10,
    "axes.unicode_minus": True,
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
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}
SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
# What the page's style says of drawings already.
TEXT_DEFAULTS = ("font-size:10px", f"fill:{FAINT}")
PATH_DEFAULTS = ("stroke-linecap:square", "stroke-linejoin:round")
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what no XML may hold

DRAWN = (
    "svg { stroke-linejoin: round; } path { stroke-linecap: square; } "
    "text { font: 10px system-ui, sans-serif; fill: var(--faint); }"
)

Draw = Callable[[Axes], None]


def figure(name: str, title: str, about: str, draw: Draw, num_rows: int | None = None) -> Figure:
    """What `draw` draws on the axes, with title and meaning. `name` must be unique on the page.

    `num_rows` is that of whiskers or bars, which the height follows.
    """
    height = SIZE_INCHES[1] if num_rows is None else LEAST_INCHES + ROW_INCHES * num_rows
    return Figure(name, title, about, drawing(name, draw, (SIZE_INCHES[0], height)))


def drawing(name: str, draw: Draw, size: tuple[float, float] = SIZE_INCHES) -> Markup:
    """The SVG element alone. Its title is the element with the id NAME-title."""
    with mpl.rc_context(STYLE):
        sheet = Sheet(figsize=size, layout="constrained")
        draw(sheet.add_subplot())
        buffer = io.StringIO()
        sheet.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return embedded(buffer.getvalue(), name)


def embedded(svg: str, name: str) -> Markup:
    """The SVG element with ids unique to the page, the page's colours, and the width of its column."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(NO_XML.sub("\ufffd", svg[svg.index("<svg") :]))  # noqa: S314  # matplotlib wrote it
    # Short ones: a drawing of many points refers to them as often.
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    ids = {old: f"{crc32(name.encode()):x}-{number}" for number, old in enumerate(used)}
    slim(root, ids)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
    text = ElementTree.tostring(root, encoding="unicode")
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return Markup(text)  # noqa: S704  # the serializer escaped what is text


def slim(parent: ElementTree.Element, ids: dict[str, str]) -> None:
    """Drop what shows nothing and shorten the rest, to a fifth of its size."""
    kept: list[ElementTree.Element] = []
    for element in parent:
        tag = element.tag.rpartition("}")[2]
        shorten(element, ids)
        slim(element, ids)
        if tag in ("metadata", "style") or (tag in ("g", "defs") and not len(element)) or is_background(element, parent):
            continue
        kept += list(element) if tag == "g" and not element.attrib else [element]
    parent[:] = kept
    parent.text = parent.text if parent.text and parent.text.strip() else None
    for element in kept:
        element.tail = None


def is_background(element: ElementTree.Element, parent: ElementTree.Element) -> bool:
    """Whether this is the invisible area of the figure or of the axes; a path in <defs> is drawn where it is referred to."""
    style = element.get("style", "")
    return element.tag.endswith("}path") and parent.tag.endswith("}g") and "stroke:" not in style and "fill:none" in style


def shorten(element: ElementTree.Element, ids: dict[str, str]) -> None:
    """Fewer digits, no names that nothing refers to, and no style that is the page's."""
    values = element.attrib
    if (old := values.pop("id", None)) in ids:
        values["id"] = ids[old]
    if LINK in values:
        values["href"] = f"#{ids[values.pop(LINK)[1:]]}"
    if "clip-path" in values:
        values["clip-path"] = re.sub("#([^)]+)", lambda found: f"#{ids[found[1]]}", values["clip-path"])
    if "style" in values:
        parts = [part.replace(": ", ":") for part in values["style"].split("; ") if not part.startswith("font-family")]
        defaults = TEXT_DEFAULTS if element.tag.endswith("}text") else PATH_DEFAULTS
        values["style"] = ";".join(part for part in parts if part not in defaults)
    if values.get("transform", "").startswith("rotate(-0"):
        del values["transform"]
    for attribute, digits in (("d", 2 if "id" in values else 1), ("x", 1), ("y", 1), ("transform", 2)):
        if attribute in values:
            values[attribute] = " ".join(rounded(values[attribute], digits).split())
    if "d" in values:
        values["d"] = re.sub(r" ?([A-Za-z]) ?", r"\1", values["d"])


def rounded(text: str, digits: int) -> str:
    """Numbers with so many decimals at most."""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.{digits}f}".rstrip("0").rstrip("."), text)


def standalone(svg: str) -> str:
    """A drawing as a file of its own: on white, in the colours of a light page."""
    beneath = f'<style>{DRAWN}</style><rect width="100%" height="100%" fill="#ffffff"/>'
    # A string of its own, because Markup escapes whatever is put into it.
    svg = re.sub(r"(<svg [^>]*>)", rf"\1{beneath}", str(svg), count=1)
    light = STYLE_SHEET.read_text().partition("}")[0]
    for variable in VARIABLES.values():
        found = re.search(rf"{variable}: (#[0-9a-f]+)", light)
        assert found, f"{variable} is a colour of the page"
        svg = svg.replace(f"var({variable})", found[1])
    return re.sub(r' aria-labelledby="[^"]*"', "", svg, count=1) + "\n"
