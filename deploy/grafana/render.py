"""Draws the dashboard from a running Prometheus, where Grafana is not at hand. It reads the same JSON, but it is not Grafana.

`python -m deploy.grafana.render --prometheus http://localhost:9090 --out dashboard.png`
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

DASHBOARD = Path(__file__).with_name("dashboards") / "twotower.json"
COLUMNS, UNIT_PX, WIDTH_PX, DPI = 24, 27, 1400, 100  # Grafana's grid has 24 columns; a row of it is about 30 pixels high
GAP, TITLE = 0.35, 0.9  # in rows of the grid
NUM_POINTS, NUM_COLOURS, MAX_NAMES = 240, 64, 7
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#ffcb7d", "#ff7383")
PAPER, PANEL, INK, FAINT = "#111217", "#181b1f", "#ccccdc", "#34373e"

Panel = dict[str, Any]
Series = tuple[str, list[float], list[float]]  # name, minutes before the end, values


class Unanswered(Exception):
    """Prometheus did not answer a query."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw all panels of the dashboard. Exit status 2 when Prometheus does not answer or there is no such dashboard."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.render", description=__doc__)
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--dashboard", type=Path, default=DASHBOARD, metavar="FILE.json")
    parser.add_argument("--minutes", type=float, default=10, help="how far back (10)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    args = parser.parse_args(argv)
    try:
        panels = json.loads(args.dashboard.read_text())["panels"]
        draw(panels, args.prometheus, args.minutes, args.out)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{args.dashboard} or {args.out} cannot be used: {error}\n")
        return 2
    except Unanswered as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def draw(panels: list[Panel], prometheus: str, minutes: float, out: Path) -> None:
    """One picture of all panels, each where the JSON places it."""
    num_rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(WIDTH_PX / DPI, num_rows * UNIT_PX / DPI), dpi=DPI, facecolor=PAPER)
    end_s = time.time()
    for panel in panels:
        place = panel["gridPos"]
        left, top, width = place["x"] / COLUMNS, 1 - place["y"] / num_rows, place["w"] / COLUMNS
        if panel["type"] == "row":
            figure.text(0.006, top - 0.75 / num_rows, panel["title"], color=INK, fontsize=9, weight="bold")
            continue
        figure.text(left + 0.008, top - TITLE / num_rows, panel["title"], color=INK, fontsize=7.5)
        height = (place["h"] - GAP - TITLE - 1.0) / num_rows
        box = (left + 0.034, top - (place["h"] - GAP - 0.75) / num_rows, width - 0.042, height)
        axes = figure.add_axes(box, facecolor=PANEL)
        show(axes, panel, [s for target in panel["targets"] for s in answers(prometheus, target, end_s, minutes)], minutes)
    figure.savefig(out)
    # Few colours are in use, so a palette makes the file a third as large.
    with Image.open(out) as drawn:
        reduced = drawn.convert("RGB").quantize(NUM_COLOURS)
    reduced.save(out, optimize=True)


def show(axes: Axes, panel: Panel, found: list[Series], minutes: float) -> None:
    """Draw one panel: lines, or areas upon each other, or one number."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    if panel["type"] == "stat" or not found:
        last = [values[-1] for _, _, values in found if values]
        text = spoken(last[0], unit) if last else "no data"
        axes.text(0.5, 0.5, text, color=COLOURS[0] if last else FAINT, fontsize=18 if last else 9, ha="center", va="center")
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        return
    floor = [0.0] * NUM_POINTS
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    for number, (name, at, values) in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        named = name if number < MAX_NAMES else None
        if stacked:
            low = floor[: len(values)]
            high = [a + (0 if math.isnan(b) else b) for a, b in zip(low, values, strict=False)]
            axes.fill_between(at[: len(high)], low[: len(high)], high, color=colour, alpha=0.6, label=named, linewidth=0)
            floor = high + floor[len(high) :]
        else:
            axes.plot(at, values, color=colour, linewidth=1, label=named)
    axes.set_xlim(-minutes, 0)
    axes.set_ylim(bottom=0)
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the names
    axes.grid(color=FAINT, linewidth=0.4)
    axes.tick_params(colors=INK, labelsize=5.5, length=0, pad=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: spoken(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min" if value else "now"))
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=4)
    if any(name for name, _, _ in found[:MAX_NAMES]):
        axes.legend(loc="upper left", fontsize=5, frameon=False, labelcolor=INK, ncols=2, borderpad=0.1, handlelength=1)


def answers(prometheus: str, target: dict[str, Any], end_s: float, minutes: float) -> list[Series]:
    """What a query gives over time, each series under the name that its legend makes of its labels."""
    query = target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")
    step_s = minutes * 60 / NUM_POINTS
    asked = {"query": query, "start": end_s - minutes * 60, "end": end_s, "step": step_s}
    url = f"{prometheus.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("its address must begin with http:// or https://")
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 # checked above
            result = json.load(answer)["data"]["result"]
    except (OSError, ValueError, KeyError) as error:
        raise Unanswered(f"Prometheus at {prometheus} does not answer: {error}") from error
    return [
        (
            re.sub(r"\{\{(\w+)\}\}", lambda label, one=one: one["metric"].get(label[1], ""), target["legendFormat"]),  # type: ignore[misc]
            [(float(at) - end_s) / 60 for at, _ in one["values"]],
            [float(value) for _, value in one["values"]],
        )
        for one in result
    ]


def spoken(value: float, unit: str) -> str:
    """A number with its unit, as short as it can be read."""
    match unit:
        case "s" if value >= 5400:
            return f"{value / 3600:.3g} h"
        case "s" if value >= 100:
            return f"{value / 60:.3g} min"
        case "s":
            return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "bytes":
            power = min(int(math.log(value, 1024)), 4) if value >= 1 else 0
            return f"{value / 1024**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
        case "reqps" | "ops":
            return f"{value:.3g}/s"
        case _:
            return f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
