"""The page about a load test: the verdict, intervals, latency curves, and what happened second by second."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtests.gate import AT_LEAST, FIGURES, Judged
from loadtests.held import Held
from loadtests.intervals import QUANTILES, Within, intervals
from loadtests.outcomes import GOOD_WITHIN_MS, Fate, Floats, Outcomes
from loadtests.profiles import Profile
from twotower.report import page
from twotower.report.charts import Whisker, key_above, log_ticks, whiskers
from twotower.report.numbers import NOTHING, SPACE, percent, short, signed, words
from twotower.report.parts import Cell, Facts, Figure, Table, Tile, Verdict
from twotower.report.svg import FAINT, FIRST, INK, SECOND, THIRD, figure

TEMPLATE = Path(__file__).with_name("page.html")
COLOURS = {"poisson": FIRST, "locust": SECOND, "loadgen": THIRD}
LINES = {"poisson": "-", "locust": "--", "loadgen": ":"}
ABOUT = {
    "poisson": "open loop: requests are sent when they are due",
    "locust": "closed loop: each user waits for an answer before it goes on",
    "loadgen": "the Server scenario of MLPerf LoadGen",
}
SHARES = (0.5, 0.9, 0.99, 0.999)
NAMES = {
    "p50_ms": "p50",
    "p99_ms": "p99",
    "p999_ms": "p99.9",
    "error_share": "errors",
    "degraded_share": "degraded",
    "refusal_p50_ms": "time to refuse, p50",
    "goodput_share": "goodput",
    "end_goodput_share": "goodput of the last third",
    "broken": "LoadGen: its bound is broken",
    "unsure": "LoadGen: too few queries to be sure",
}
HELD = {"memory_mib_per_min": "MiB per minute", "descriptors_per_min": "per minute", "threads_per_min": "per minute"}
MEANINGS = {
    "p50, p99, p99.9": "the latency that so many per cent of the answered recommendations do not exceed",
    "errors": "share of all requests that were refused (429, 503, 504) or failed",
    "degraded": "share of the answered recommendations that lacked something the answer should know",
    "goodput": f"share of all requests that were answered in full within {GOOD_WITHIN_MS:.0f} ms",
    "capacity": "requests per second at which 99 % of recommendations still come within 50 ms",
    "interval": "95 %, from drawing whole seconds again, because the requests of a second share a queue",
}

Intervals = Mapping[str, Mapping[str, Within]]  # by generator and figure


def load_page(profile: Profile, outcomes: Sequence[Outcomes], judged: Sequence[Judged], looks: Sequence[Held] = ()) -> str:
    """The whole HTML file."""
    within: Intervals = {one.generator: intervals(one) for one in outcomes}
    title = f"Load test: {profile.name}"
    content = {
        "load": load_of(profile, outcomes),
        "verdict": verdict(judged),
        "tiles": tiles(judged),
        "quantiles": quantiles_figure(judged, within),
        "limits": limits_table(outcomes, judged, within),
        "latency": [percentiles(outcomes, judged), *map(over_time, outcomes)],
        "rates": [rates(one) for one in outcomes],
        "memory": memory(looks) if looks else None,
        "growth": growth_table(judged),
        "generators": generators(outcomes),
        "meanings": MEANINGS,
    }
    return page.render(TEMPLATE, title, content)


def verdict(judged: Sequence[Judged]) -> Verdict:
    """Passed, or what failed."""
    missed = [one for one in judged if not one.passed]
    if not missed:
        return Verdict("better", "The service holds.", ["Every limit is met."])
    because = [
        f"{name_of(one)} is {value_of(one, one.value)} by {one.generator}, the limit is {value_of(one, one.limit or 0.0)}."
        for one in missed
    ]
    return Verdict("worse", "The service does not hold.", because)


def name_of(judged: Judged) -> str:
    """What a figure is called."""
    return NAMES.get(judged.figure, words(judged.figure))


def value_of(judged: Judged, value: float) -> str:
    """A value in the unit of its figure."""
    if judged.figure.endswith("_ms"):
        return short(value, "ms")
    if judged.figure.endswith("_share"):
        return percent(value, 2)
    return short(value, HELD.get(judged.figure, ""))


def tiles(judged: Sequence[Judged]) -> list[Tile]:
    """Every figure with a limit, as the generator saw it that came nearest to the limit or beyond."""
    shown = []
    for name in [name for name in FIGURES if any(one.figure == name and one.limit is not None for one in judged)]:
        seen = [one for one in judged if one.figure == name and one.limit is not None]
        worst = (min if name in AT_LEAST else max)(seen, key=lambda one: one.value)
        sign = "at least" if name in AT_LEAST else "at most"
        about = f"the worst, by {worst.generator}"
        within = f"{'met' if worst.passed else 'missed'}: {sign} {value_of(worst, worst.limit or 0.0)}"
        kind = "better" if worst.passed else "worse"
        shown.append(Tile(name_of(worst), value_of(worst, worst.value), about, within, kind))  # type: ignore[arg-type]
    return shown


def load_of(profile: Profile, outcomes: Sequence[Outcomes]) -> str:
    """The load in a sentence."""
    phases = profile.lasting(outcomes[0].seconds).phases
    load = ", then ".join(f"{phase.seconds:g}{SPACE}s at {percent(phase.load, 0)}" for phase in phases)
    capacity = next((one.capacity_per_s for one in outcomes if one.capacity_per_s), None)
    return f"{load} of the capacity" + (f", which is {capacity:.1f} requests per second" if capacity else "")


def generators(outcomes: Sequence[Outcomes]) -> Facts:
    """How each generator sends its load."""
    return {one.generator: ABOUT[one.generator] for one in outcomes}


def quantiles_figure(judged: Sequence[Judged], within: Intervals) -> Figure:
    """Latency quantiles of every generator with their intervals, and the limits."""
    shown = [one for name in QUANTILES for one in judged if one.figure == name]
    rows = []
    for one in shown:
        low, high = within[one.generator].get(one.figure, (None, None))
        rows.append(Whisker(f"{NAMES[one.figure]}, {one.generator}", one.value, low, high, "" if one.passed else "worse"))

    def draw(axes: Axes) -> None:
        whiskers(rows, "latency (ms)")(axes)
        limits = [(one.limit, len(shown) - 1 - place) for place, one in enumerate(shown) if one.limit]
        axes.plot(*np.reshape(limits, (-1, 2)).T, "x", color=INK, markersize=7)
        axes.set_xscale("log")
        log_ticks(axes.xaxis)

    about = "Bars are 95 % intervals, crosses the limits: a bar left of its cross is safe, one that reaches over it is not."
    return figure("quantiles", "Latency and its limits", about, draw, len(rows))


def limits_table(outcomes: Sequence[Outcomes], judged: Sequence[Judged], within: Intervals) -> Table:
    """A row for each figure, a column for each generator."""
    names = [one.generator for one in outcomes]
    by_place = {(one.figure, one.generator): one for one in judged}
    rows: list[list[str | Cell]] = [
        ["requests", *(f"{len(one.fates):,}" for one in outcomes), ""],
        ["requests per second", *(f"{len(one.fates) / max(one.seconds, 1e-9):.1f}" for one in outcomes), ""],
    ]
    for figure_name in dict.fromkeys(one.figure for one in judged if one.generator in names):
        cells = [by_place.get((figure_name, name)) for name in names]
        limited = next((one for one in cells if one is not None), None)
        sign = "at least" if figure_name in AT_LEAST else "at most"
        limit = "" if limited is None or limited.limit is None else f"{sign} {value_of(limited, limited.limit)}"
        label = NAMES.get(figure_name, words(figure_name))
        rows.append([label, *(cell_of(one, within) for one in cells), limit])
    about = f"Goodput is the share that was answered in full within {GOOD_WITHIN_MS:.0f} ms. Ranges are 95 % intervals."
    return Table(about, ["", *names, "limit"], rows)


def cell_of(judged: Judged | None, within: Intervals) -> str | Cell:
    """A value with its interval, and whether its limit is met."""
    if judged is None:
        return ""
    ends = within[judged.generator].get(judged.figure)
    below = [f"{value_of(judged, ends[0]).partition(SPACE)[0]} to {value_of(judged, ends[1])}"] if ends else []
    if judged.limit is None:
        return Cell(value_of(judged, judged.value), ", ".join(below))
    kind = "better" if judged.passed else "worse"
    said = ", ".join([*below, "met" if judged.passed else "missed"])
    return Cell(value_of(judged, judged.value), said, kind)  # type: ignore[arg-type]


def percentiles(outcomes: Sequence[Outcomes], judged: Sequence[Judged]) -> Figure:
    """Latency over the share of answers, the rare ones drawn wide. Crosses are limits."""
    limits = {one.figure: one.limit for one in judged if one.figure in QUANTILES and one.limit}

    def draw(axes: Axes) -> None:
        for one in outcomes:
            ordered = np.sort(one.answered_ms())
            rarer = len(ordered) / (len(ordered) - np.arange(len(ordered)))  # one in so many answers is slower
            style, colour = LINES[one.generator], COLOURS[one.generator]
            axes.plot(rarer, ordered, color=colour, linewidth=1.8, linestyle=style, label=one.generator)
        rarities = [1 / (1 - QUANTILES[name]) for name in limits]
        axes.plot(rarities, list(limits.values()), color=INK, linestyle="", marker="x", markersize=7, label="limit")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator([1 / (1 - share) for share in SHARES]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):.4g}"))
        log_ticks(axes.yaxis)
        axes.set_xlabel("answers that are as fast (%)")
        axes.set_ylabel("latency (ms)")
        key_above(axes)

    about = "The latency that a share of the answers does not exceed; a curve below a cross meets that limit."
    return figure("percentiles", "Latency by share of answers", about, draw)


def over_time(outcomes: Outcomes) -> Figure:
    """Quantiles of latency, second by second."""
    seconds, latencies = by_second(outcomes)

    def draw(axes: Axes) -> None:
        colour = COLOURS[outcomes.generator]
        for name, share, width, style in (("p50", 0.50, 2.0, "-"), ("p99", 0.99, 1.0, "--")):
            values = [float(np.quantile(latencies[seconds == second], share)) for second in np.unique(seconds)]
            axes.plot(np.unique(seconds), values, color=colour, linewidth=width, linestyle=style, label=name)
        axes.set_xlabel("second of the test")
        axes.set_ylabel("latency (ms)")
        axes.set_ylim(bottom=0)
        key_above(axes)

    about = "Peaks are moments of queues; a p50 that climbs means that the service falls behind."
    return figure(f"over-time-{outcomes.generator}", f"{outcomes.generator}: latency of each second", about, draw)


def rates(outcomes: Outcomes) -> Figure:
    """Requests of each second: answered in full, and all others."""
    at, good = np.asarray(outcomes.at_s), np.asarray(outcomes.fates) == Fate.GOOD
    edges = np.arange(0, np.ceil(at.max()) + 1)

    def draw(axes: Axes) -> None:
        series = (("answered in full", good, COLOURS[outcomes.generator], "-"), ("not in full", ~good, FAINT, "--"))
        for name, chosen, colour, style in series:
            counts = np.histogram(at[chosen], edges)[0]
            axes.stairs(counts, edges, color=colour, linewidth=1.5, linestyle=style, label=name, zorder=3)
        axes.set_xlabel("second of the test")
        axes.set_ylabel("requests per second")
        axes.set_ylim(bottom=0)
        key_above(axes)

    about = "The dashed line should lie at zero: it counts degraded, refused and failed requests."
    return figure(f"rates-{outcomes.generator}", f"{outcomes.generator}: requests of each second", about, draw)


def memory(looks: Sequence[Held]) -> Figure:
    """The memory that the server held."""

    def draw(axes: Axes) -> None:
        axes.plot([look.at_s - looks[0].at_s for look in looks], [look.memory_mib for look in looks], color=FIRST, linewidth=1.6)
        axes.set_xlabel("second of the test")
        axes.set_ylabel("memory (MiB)")

    about = "A line that is level after the first third, in which caches fill, means that nothing leaks."
    return figure("memory", "Memory of the server", about, draw)


def growth_table(judged: Sequence[Judged]) -> Table | None:
    """How fast what the server holds grew; None if it was not looked at."""
    rows: list[list[str | Cell]] = [
        [
            words(one.figure.removesuffix("_per_min")),
            f"{signed(one.value, 3)}{SPACE}{HELD.get(one.figure, '')}",
            f"{one.limit:.3g}" if one.limit is not None else NOTHING,
            Cell("flat" if one.passed else "grows", kind="better" if one.passed else "worse"),
        ]
        for one in judged
        if one.generator == "server"
    ]
    return (
        Table("Without the first third, in which caches fill.", ["", "growth", "noise (95 %)", "verdict"], rows) if rows else None
    )


def by_second(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """The second and the latency of each recommendation that was answered."""
    rows = zip(outcomes.at_s, outcomes.is_recommend, outcomes.fates, strict=True)
    seconds = [float(int(at)) for at, recommend, fate in rows if recommend and fate <= Fate.DEGRADED]
    return np.asarray(seconds), outcomes.answered_ms()
