"""The page about a load test: the verdict, latency curves, and what happened second by second."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtests.gate import AT_LEAST, Judged
from loadtests.held import Held
from loadtests.outcomes import GOOD_WITHIN_MS, Fate, Floats, Outcomes
from loadtests.profiles import Profile
from twotower.report.page import Markup, definitions, element, figure, page, section, table, words
from twotower.report.svg import FAINT, INK, MODEL, PERSONAL, POPULARITY, drawing

COLOURS = {"poisson": MODEL, "locust": POPULARITY, "loadgen": PERSONAL}
CLASSES = {"poisson": "model", "locust": "popularity", "loadgen": "personal"}  # of the legend, by the page's style
ABOUT = {
    "poisson": "open loop: requests are sent when they are due",
    "locust": "closed loop: each user waits for an answer before it goes on",
    "loadgen": "the Server scenario of MLPerf LoadGen",
}
SHARES = (0.5, 0.9, 0.99, 0.999)
PLACES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
NAMES = {
    "p50_ms": "p50 (ms)",
    "p99_ms": "p99 (ms)",
    "p999_ms": "p99.9 (ms)",
    "refusal_p50_ms": "time to refuse, p50 (ms)",
    "end_goodput_share": "goodput share of the last third",
    "broken": "LoadGen: its bound is broken",
    "unsure": "LoadGen: too few queries to be sure",
}


def load_page(profile: Profile, outcomes: Sequence[Outcomes], judged: Sequence[Judged], looks: Sequence[Held] = ()) -> str:
    """The whole HTML file."""
    missed = [one for one in judged if not one.passed]
    title = f"Load test: {profile.name}"
    return page(
        title,
        element("h1", title),
        verdict(missed),
        definitions(facts(profile, outcomes)),
        section("Figures and limits", limits_table(outcomes, judged)),
        section(
            "Latency of recommendations",
            legend(outcomes),
            element(
                "div",
                figure("Latency (ms) that a share of the answers does not exceed; x is a limit", percentiles(outcomes, judged)),
                *(figure(f"{one.generator}: p50 and p99 of each second (ms)", over_time(one)) for one in outcomes),
                kind="charts wide",
            ),
        ),
        section(
            "Requests per second",
            element("div", *(figure(f"{one.generator}: good, and not good", rates(one)) for one in outcomes), kind="charts wide"),
        ),
        held_section(looks, judged) if looks else "",
    )


def held_section(looks: Sequence[Held], judged: Sequence[Judged]) -> Markup:
    """What the server held during a soak, and how fast it grew."""
    rows = [
        [words(one.figure), f"{one.value:+.3g}", f"{one.limit:.3g}", "flat" if one.passed else "grows"]
        for one in judged
        if one.generator == "server"
    ]

    def draw(axes: Axes) -> None:
        axes.plot([look.at_s - looks[0].at_s for look in looks], [look.memory_mib for look in looks], color=MODEL, linewidth=1.4)
        axes.set_xlabel("second")

    return section(
        "What the server holds",
        table("Without the first third, in which caches fill.", ["", "growth", "noise (95 %)", ""], rows),
        element("div", figure("memory (MiB)", drawing("memory", draw)), kind="charts wide"),
    )


def verdict(missed: Sequence[Judged]) -> Markup:
    """Passed, or what failed."""
    if not missed:
        return element("p", element("strong", "The service holds."), " Every limit is met.", kind="verdict better")
    said = "; ".join(
        f"{NAMES.get(one.figure, words(one.figure))} is {one.value:.4g} by {one.generator}, the limit is {one.limit:g}"
        for one in missed
    )
    return element("p", element("strong", "The service does not hold."), f" {said}.", kind="verdict worse")


def facts(profile: Profile, outcomes: Sequence[Outcomes]) -> dict[str, object]:
    """What was done."""
    phases = profile.lasting(outcomes[0].seconds).phases
    load = ", then ".join(f"{phase.seconds:g} s at {100 * phase.load:g} %" for phase in phases)
    capacity = next((one.capacity_per_s for one in outcomes if one.capacity_per_s), None)
    told: dict[str, object] = {"load": f"{load} of the capacity"}
    if capacity:
        told["capacity"] = f"{capacity:.1f} requests per second"
    return told | {one.generator: ABOUT.get(one.generator, "") for one in outcomes}


def limits_table(outcomes: Sequence[Outcomes], judged: Sequence[Judged]) -> Markup:
    """A row for each figure, a column for each generator."""
    generators = [one.generator for one in outcomes]
    by_place = {(one.figure, one.generator): one for one in judged}
    shown: list[Sequence[object]] = [
        ["requests", *(f"{len(one.fates):,}" for one in outcomes), ""],
        ["requests per second", *(f"{len(one.fates) / max(one.seconds, 1e-9):.1f}" for one in outcomes), ""],
    ]
    for name in dict.fromkeys(one.figure for one in judged if one.generator in generators):
        cells = [by_place.get((name, generator)) for generator in generators]
        limit = next((one.limit for one in cells if one is not None), None)
        sign = "at least" if name in AT_LEAST else "at most"
        shown.append(
            [NAMES.get(name, words(name)), *(cell_of(one) for one in cells), "" if limit is None else f"{sign} {limit:g}"]
        )
    return table(
        f"Goodput is the share that was answered in full within {GOOD_WITHIN_MS:.0f} ms.", ["", *generators, "limit"], shown
    )


def cell_of(judged: Judged | None) -> object:
    """A value in the colour of its verdict."""
    if judged is None:
        return ""
    kind = "" if judged.limit is None else "better" if judged.passed else "worse"
    return element("span", f"{judged.value:.4g}", kind=kind)


def legend(outcomes: Sequence[Outcomes]) -> Markup:
    """The colours of the generators."""
    return element("div", *(element("span", one.generator, kind=CLASSES[one.generator]) for one in outcomes), kind="legend")


def percentiles(outcomes: Sequence[Outcomes], judged: Sequence[Judged]) -> Markup:
    """Latency over the share of answers, the rare ones drawn wide. Crosses are limits."""
    limits = {one.figure: one.limit for one in judged if one.figure in PLACES and one.limit}

    def draw(axes: Axes) -> None:
        for one in outcomes:
            ordered = np.sort(one.answered_ms())
            rarer = len(ordered) / (len(ordered) - np.arange(len(ordered)))  # one in so many answers is slower
            axes.plot(rarer, ordered, color=COLOURS[one.generator], linewidth=1.8)
        rarities = [1 / (1 - PLACES[name]) for name in limits]
        axes.plot(rarities, list(limits.values()), color=INK, linestyle="", marker="x", markersize=7)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator([1 / (1 - share) for share in SHARES]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):.4g} %"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))

    return drawing("percentiles", draw)


def over_time(outcomes: Outcomes) -> Markup:
    """Quantiles of latency, second by second."""
    seconds, latencies = by_second(outcomes)

    def draw(axes: Axes) -> None:
        for share, width in ((0.50, 1.8), (0.99, 0.9)):
            values = [float(np.quantile(latencies[seconds == second], share)) for second in np.unique(seconds)]
            axes.plot(np.unique(seconds), values, color=COLOURS[outcomes.generator], linewidth=width)
        axes.set_xlabel("second")
        axes.set_ylim(bottom=0)

    return drawing(f"over-time-{outcomes.generator}", draw)


def rates(outcomes: Outcomes) -> Markup:
    """Requests of each second: answered in full, and all others."""
    at, good = np.asarray(outcomes.at_s), np.asarray(outcomes.fates) == Fate.GOOD
    edges = np.arange(0, np.ceil(at.max()) + 1)

    def draw(axes: Axes) -> None:
        for chosen, colour in ((good, COLOURS[outcomes.generator]), (~good, FAINT)):
            axes.stairs(np.histogram(at[chosen], edges)[0], edges, color=colour, linewidth=1.4)
        axes.set_xlabel("second")
        axes.set_ylim(bottom=0)

    return drawing(f"rates-{outcomes.generator}", draw)


def by_second(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """The second and the latency of each recommendation that was answered."""
    rows = zip(outcomes.at_s, outcomes.is_recommend, outcomes.fates, strict=True)
    seconds = [float(int(at)) for at, recommend, fate in rows if recommend and fate <= Fate.DEGRADED]
    return np.asarray(seconds), outcomes.answered_ms()
