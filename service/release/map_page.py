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
_MODULES = ("map-data.js", "map-draw.js", "map-look.js", "map.js")  # each stands on those before it
_IMPORT, _EXPORT = re.compile(r"^import .*;\n", re.MULTILINE), re.compile(r"^export ", re.MULTILINE)
_START = """
const bytes = (text) => new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))]);
const unpacked = (text) => new Response(bytes(text).stream().pipeThrough(new DecompressionStream("gzip")));
const told = (point) => ({ point, item_id: items[point][0], title: items[point][1] });
const items = await unpacked(ITEMS).json();
const points = new Map(items.map(([id], point) => [id, point]));
const element = document.querySelector("#map");
element.map = mountMap(element, {
  onPick: (item_id, title) => element.dispatchEvent(new CustomEvent("pick", { detail: { item_id, title } })),
  source: {
    load: () => unpacked(MAP).arrayBuffer(),
    lookUp: async ({ points: some = [], item_ids: ids = [] }) => {
      const found = [...some, ...ids.filter((id) => points.has(id)).map((id) => points.get(id))];
      return { points: found.map(told), release: RELEASE };
    },
  },
});
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
    return render(_TEMPLATE, title, {"num_items": len(items), "script": Markup(script)})  # noqa: S704  # "<" is escaped in it


def code() -> str:
    """The modules of the map as one."""
    return "".join(_EXPORT.sub("", _IMPORT.sub("", (_CODE / name).read_text())) for name in _MODULES)
