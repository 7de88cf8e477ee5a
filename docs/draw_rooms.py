"""The picture of the rooms, docs/images/rooms.svg, made from the map in CONTRIBUTING.md.

`.venv/bin/python docs/draw_rooms.py` writes it. A test holds that the committed picture is what this makes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/rooms.svg"
STAGES = {"training": "twotower train", "embedder_cache": "twotower embed", "service": "twotower serve"}
WIDTH, MARGIN, GAP = 960, 8, 16
ROW, HEAD = 27, 60  # heights: of a room and what is below it, of the head of a package
COLUMNS = 4  # of the rooms of the package below the stages
STYLE = """  <style>
    .panel { fill: #f6f8fa; stroke: #8a8f98; }
    .thing { fill: #8a8f9830; stroke: #8a8f98; }
    .line { stroke: #7d8590; stroke-width: 1.6; fill: none; marker-end: url(#tip); }
    .ink { fill: #24292f; }
    .dim { fill: #59636e; font-size: 12.5px; }
    .head { font-weight: 600; font-size: 15px; }
    text { text-anchor: middle; }
    @media (prefers-color-scheme: dark) {
      .panel { fill: #161b22; }
      .ink { fill: #e6edf3; }
      .dim { fill: #9da7b3; }
    }
  </style>
  <defs>
    <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
      <path d="M0 0 L8 4 L0 8 z" fill="#7d8590"/>
    </marker>
  </defs>"""


def rooms() -> dict[str, list[str]]:
    """The rooms of each package, from the top down."""
    found: dict[str, list[str]] = {}
    for package, room in re.findall(r"^\| `(\w+)/(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE):
        found.setdefault(package, []).append(room)
    return found


def picture() -> str:
    """The whole picture."""
    return "\n".join(_picture(rooms())) + "\n"


def _picture(found: dict[str, list[str]]) -> Iterator[str]:
    below = [package for package in found if package not in STAGES]
    assert set(found) - set(below) == set(STAGES), "a package is new: say in STAGES which command it belongs to"
    width = (WIDTH - 2 * MARGIN - 2 * GAP) / len(STAGES)
    tall = HEAD + ROW * max(len(found[stage]) for stage in STAGES) + 8
    height = MARGIN + tall
    for package in below:
        height += 40 + HEAD + ROW * -(-len(found[package]) // COLUMNS) + 8
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + MARGIN}" role="img" font-size="14"'
    yield '  font-family="system-ui, sans-serif" aria-label="The packages and their rooms. Imports point down.">'
    yield STYLE
    for place, (stage, command) in enumerate(STAGES.items()):
        left = MARGIN + place * (width + GAP)
        yield from _package(left, MARGIN, width, tall, stage, command)
        for row, room in enumerate(found[stage]):
            yield from _room(left + 12, MARGIN + HEAD + ROW * row, width - 24, room)
        yield f'  <path class="line" d="M{left + width / 2:g} {MARGIN + tall} V{MARGIN + tall + 38}"/>'
    top = MARGIN + tall + 40
    for package in below:
        inside = HEAD + ROW * -(-len(found[package]) // COLUMNS) + 8
        yield from _package(MARGIN, top, WIDTH - 2 * MARGIN, inside, package, "what the stages share")
        cell = (WIDTH - 2 * MARGIN - 24 + 12) / COLUMNS
        for number, room in enumerate(found[package]):
            row, column = divmod(number, COLUMNS)
            yield from _room(MARGIN + 12 + column * cell, top + HEAD + ROW * row, cell - 12, room)
        top += inside + 40
    yield "</svg>"


def _package(left: float, top: float, width: float, height: float, name: str, what: str) -> Iterator[str]:
    yield f'  <rect class="panel" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="8"/>'
    yield f'  <text class="ink head" x="{left + width / 2:g}" y="{top + 24:g}">{name}/</text>'
    yield f'  <text class="dim" x="{left + width / 2:g}" y="{top + 43:g}">{what}</text>'


def _room(left: float, top: float, width: float, name: str) -> Iterator[str]:
    yield f'  <rect class="thing" x="{left:g}" y="{top:g}" width="{width:g}" height="{ROW - 5}" rx="4"/>'
    yield f'  <text class="ink" x="{left + width / 2:g}" y="{top + 16:g}">{name}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture())
