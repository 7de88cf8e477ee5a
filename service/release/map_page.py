"""A map as one HTML file that needs no server: the points, every title, and the playground's own code to draw them."""

import base64
import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from markupsafe import Markup

import service
from twotower.report.page import render

_TEMPLATE = Path(__file__).with_name("map_page.html")
_CODE = Path(service.__file__).parent / "playground"
_MODULES = ("dom", "palette", "map-data", "map-draw", "map-look", "map-view", "map-legend", "map-hands", "map")  # in order
_IMPORT, _EXPORT = re.compile(r"^import .*;\n", re.MULTILINE), re.compile(r"^export ", re.MULTILINE)
_START = """
const blob = (text) => new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))]);
const unpacked = (text) => new Response(blob(text).stream().pipeThrough(new DecompressionStream("gzip")));
const told = (point) => ({ point, item_id: items[point][0], title: items[point][1] });
const items = await unpacked(ITEMS).json();
const load = () => unpacked(MAP).arrayBuffer();
const lookUp = async ({ points }) => ({ points: points.map(told), release: RELEASE });
mountMap(document.querySelector("#map"), { source: { load, lookUp } });
"""


def map_page(title: str, release: str, compressed: bytes, items: Sequence[tuple[str, str | None]]) -> str:
    """The page of a map as `ServedMap.compressed` has it, with the id and the title of the item at each point."""
    data = {
        "MAP": base64.b64encode(compressed).decode(),
        "ITEMS": base64.b64encode(gzip.compress(msgspec.json.encode(items), mtime=0)).decode(),
        "RELEASE": release,
    }
    constants = "".join(f"const {name} = {msgspec.json.encode(value).decode()};\n" for name, value in data.items())
    script = constants.replace("<", "\\u003c") + code() + _START
    assert "</script" not in script, "it would end there"
    palette = Markup((_CODE / "palette.css").read_text())  # noqa: S704  # a file of ours
    content = {"num_items": len(items), "palette": palette, "script": Markup(script)}  # noqa: S704  # "<" is escaped in it
    return render(_TEMPLATE, title, content)


def code() -> str:
    """The modules of the map as one."""
    return "".join(_EXPORT.sub("", _IMPORT.sub("", (_CODE / f"{name}.js").read_text())) for name in _MODULES)
