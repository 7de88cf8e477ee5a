"""The process that draws a map, and the call that starts it.

UMAP brings a compiler, and wants seconds and memory of its own. Whatever happens in that process, the release goes out: with the
places of the night before, or without a map.
"""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embedder_cache.catalogue.opened_release import OpenedRelease
from twotower.data.schema import ItemColumns
from twotower.errors import DataError, TwoTowerError
from twotower.maps.item_map import MAP
from twotower.progress import say, step

LIMIT_S = 1800.0  # of the process; docs/nightly.md has what 92,331 items took
_ENTRY = "embedder_cache.maps.process"


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What was drawn."""

    num_points: int
    num_items: int
    num_placed: int  # points that were put beside their neighbours since all places were computed
    colour: str | None

    def __str__(self) -> str:
        of = "" if self.num_points == self.num_items else f" of {self.num_items:,} items"
        placed = "all places computed" if not self.num_placed else f"{self.num_placed:,} put beside their neighbours"
        return f"{self.num_points:,} points{of}, coloured by {self.colour or 'nothing'}; {placed}"


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How the nightly job draws maps."""

    colour: str | None = None  # the column whose values colour the points; None takes the first that suits

    def require_column(self, columns: ItemColumns) -> None:
        """DataError unless the column that shall colour the points is a categorical feature of the items."""
        if self.colour is not None and columns.features.get(self.colour) != "categorical":
            known = ", ".join(name for name, kind in columns.features.items() if kind == "categorical") or "none"
            raise DataError(f"--map-colour {self.colour!r} is no categorical feature of the items (these are: {known})")


def draw_map(directory: Path, served: OpenedRelease | None, options: MapOptions) -> int:
    """Draw the map of a release that is being built, or say in a line what went wrong. Returns how many points it has."""
    with step("draw the map") as drawing:
        has_map = served is not None and served.manifest is not None and MAP in served.manifest.files
        drawn, trouble = draw_aside(directory, served.path if served is not None and has_map else None, options)
        if drawn:
            drawing.say(str(drawn))
    if trouble:
        say(f"  WARNING: {trouble}")
    return drawn.num_points if drawn else 0


def draw_aside(directory: Path, served: Path | None, options: MapOptions) -> tuple[Drawn | None, str | None]:
    """Draw the map of the release in `directory` into that directory, and say what was drawn and what went wrong.

    `served` is the directory of the release served now, if that has a map. When places cannot be computed, the points of that map
    keep theirs, and new items are left out until a night on which it works.
    """
    drawn = _run(directory, served, options, "draw")
    if isinstance(drawn, Drawn):
        return drawn, None
    if served is not None:
        kept = _run(directory, served, options, "keep")
        if isinstance(kept, Drawn):
            return kept, f"the map keeps its places of the night before, without new items: {drawn}"
    return None, f"this release has no map: {drawn}"


def _run(directory: Path, served: Path | None, options: MapOptions, how: str) -> Drawn | str:
    """What the process drew, or what went wrong; then no map is left in the directory."""
    command = [sys.executable, "-P", "-m", _ENTRY, how, str(directory), str(served or ""), options.colour or ""]
    lifeline, held = os.pipe()  # the end that the process reads is closed when this process ends, however it ends
    try:
        run = subprocess.run(command, stdin=lifeline, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if run.returncode == 0:
            return msgspec.json.decode(run.stdout, type=Drawn)
        said = run.stderr.strip().rpartition("\n")[2]
        trouble = said or f"its process ended with {run.returncode}"
    except subprocess.TimeoutExpired:
        trouble = f"it took longer than {LIMIT_S:,.0f} s"
    except (OSError, msgspec.DecodeError) as error:
        trouble = str(error)
    finally:
        os.close(lifeline)
        os.close(held)
    (directory / MAP).unlink(missing_ok=True)
    return trouble


def main(how: str, directory: str, served: str, colour: str) -> int:
    """Draw a map as `draw_aside` asks. What goes wrong is the last line on stderr."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from embedder_cache.maps.drawing import draw, draw_known

    try:
        if how == "keep":
            drawn = draw_known(Path(directory), Path(served), colour or None)
        else:
            from twotower.maps.fit import fit_umap

            drawn = draw(Path(directory), Path(served) if served else None, colour or None, fit_umap)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"it needs the package {error.name!r}: pip install 'twotower[map]'\n")
        return 1
    except TwoTowerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    info = drawn.info
    told = Drawn(num_points=len(drawn), num_items=info.num_items, num_placed=info.num_placed, colour=info.colour_column)
    sys.stdout.buffer.write(msgspec.json.encode(told))
    return 0


def _end_with_parent() -> None:
    """Wait for the end of stdin, which is the end of the process that started this one."""
    os.read(0, 1)  # and not sys.stdin, whose lock this thread would hold when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
