"""The drift report as one HTML page."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from embedder_cache.drift.answers import AnswerDrift
from embedder_cache.drift.drift import Drift, Moved, Mover, VectorDrift
from embedder_cache.drift.retrain import MEANINGS as RULES
from embedder_cache.drift.retrain import Advice, Finding, Level, urgent_first
from twotower.metrics.ranking import user_bootstrap
from twotower.report import page
from twotower.report.charts import bars, in_rows
from twotower.report.numbers import NOTHING, moment, percent, signed, words
from twotower.report.parts import Cell, Facts, Figure, Kind, Table, Tile, Verdict
from twotower.report.svg import FAINT, FIRST, INK, SECOND, figure

TEMPLATE = Path(__file__).with_name("page.html")
KINDS: dict[Level, Kind] = {"no": "better", "soon": "undecided", "now": "worse", "unknown": ""}
ADVICE = {
    "no": "No need to train again",
    "soon": "Train again soon",
    "now": "Train again now",
    "unknown": "Not known whether to train again",
}
LABEL_LENGTH = 40
UNKNOWN = "Give --bundle, the one that made the newer release, to learn what has happened since it was trained."
MEANINGS = {
    "vectors": "each common item's embedding beside its own of the release before, without the popularity dimensions; "
    "bit-equal items were not encoded again or came out the same",
    "cosine": "1 the same direction, 0 unrelated",
    "overlap@20": "share of the first 20 answers that the other release gives too; mean over golden queries and made-up "
    "histories, whose items are drawn by demand. They are not your users: read it as change, not as quality",
    "demand": "decayed event counts as the popularity dimension has them, without the little that it grants every item",
    "bits": "Jensen-Shannon divergence between two distributions of demand: 0 the same, 1 no item in common",
    "unseen": "without an event that still counted when the bundle was trained, or not in its catalogue at all",
    "score shift, spread": "of common items: how far the mean of the scores moved in the older standard deviations, and "
    "the newer standard deviation over the older. Ranking depends on neither",
}


def render(drift: Drift) -> str:
    """The HTML of the page. A part that could not be compared says why."""
    known = [finding for finding in urgent_first(drift.advice) if finding.value is not None]
    content = {
        "older": drift.older,
        "newer": drift.newer,
        "verdict": verdict(drift.advice),
        "tiles": tiles(drift),
        "rules": rules_figure(known) if known else None,
        "rules_table": rules_table(drift.advice) if drift.advice.findings else None,
        "vectors": drift.vectors,
        "why_no_vectors": "" if drift.vectors else no_vectors(drift),
        "cosines": cosines(drift.vectors) if drift.vectors and drift.vectors.changed_share else None,
        "moved": moved_table(drift.vectors.most_moved) if drift.vectors else None,
        "answers": answer_facts(drift.answers) if drift.answers else None,
        "overlaps": overlaps(drift.answers) if drift.answers else None,
        "correlation": number(drift.popularity.spearman, "{:.3f}"),
        "risers": movers("The items that gained most, by their share of all demand.", drift.popularity.risers),
        "fallers": movers("The items that lost most, by their share of all demand.", drift.popularity.fallers),
        "sides": sides(drift),
        "meanings": MEANINGS,
    }
    return page.render(TEMPLATE, f"{drift.newer.release} - drift", content)


def verdict(advice: Advice) -> Verdict:
    """The advice to train again or not, with its reasons."""
    because = [f"{finding.retrain}: {sentence(finding)}" for finding in urgent_first(advice)]
    return Verdict(KINDS[advice.retrain], ADVICE[advice.retrain], because or [UNKNOWN])


def sentence(finding: Finding) -> str:
    """A finding in words."""
    what, _, why_not = RULES[finding.name]
    return f"{what.format('?')}: {why_not}" if finding.value is None else what.format(value_of(finding, finding.value))


def value_of(finding: Finding, value: float) -> str:
    """A number of a rule as the page writes it."""
    return percent(value) if RULES[finding.name][1].endswith("%}") else RULES[finding.name][1].format(value)


def tiles(drift: Drift) -> list[Tile]:
    """The figures at the top of the page."""
    items, found, since = drift.items, drift.vectors, drift.since_training
    shown = [Tile("items", f"{drift.newer.num_items:,}", f"+{items.added:,} new, −{items.removed:,} gone")]
    if found:
        shown.append(Tile("vectors changed", percent(found.changed_share), f"{found.bit_equal:,} items are bit-equal"))
    else:
        shown.append(Tile("vectors changed", NOTHING, "not comparable"))
    if drift.answers:
        about = f"of the first {drift.answers.depth}, {len(drift.answers.overlaps)} questions"
        shown.append(Tile("answers kept", percent(drift.answers.overlap, 0), about, within=overlap_interval(drift.answers)))
    shown.append(Tile("demand moved", f"{drift.popularity.divergence:.2f} bits", "0 the same, 1 nothing in common"))
    if since:
        asked = NOTHING if since.unseen_demand is None else percent(since.unseen_demand)
        shown.append(Tile("unseen in training", percent(since.unseen_items, 0), f"of the items; of demand: {asked}"))
    return shown


def overlap_interval(found: AnswerDrift) -> str:
    """The 95 % interval of the mean overlap, from drawing questions again; empty for a single question."""
    if len(found.overlaps) < 2:
        return ""
    low, high = user_bootstrap(np.asarray(found.overlaps), np.arange(len(found.overlaps)))
    return f"{percent(low, 0)} to {percent(high, 0)}"


def rules_figure(findings: Sequence[Finding]) -> Figure:
    """How near each rule is to the threshold that says now."""

    def share(finding: Finding, value: float) -> float:
        return 100 * value / finding.rule.now if finding.rule.now else 100.0 * (value > 0)

    def draw(axes: Axes) -> None:
        for place, finding in enumerate(reversed(findings)):
            colour = FIRST if finding.retrain == "no" else SECOND
            axes.barh(place, share(finding, finding.value or 0.0), color=colour, height=0.5)
            soon = share(finding, finding.rule.soon)
            axes.plot([soon, soon], [place - 0.38, place + 0.38], color=INK, linewidth=1.6)
        in_rows(axes, [words(finding.name) for finding in findings])
        axes.axvline(100, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(left=0)
        axes.set_xlabel("of the threshold for now (%)")

    about = "A bar that passes its tick says to train again soon, one that reaches the dashed line now."
    return figure("rules", "How near the rules are", about, draw, len(findings))


def rules_table(advice: Advice) -> Table:
    """Every rule with its number and thresholds."""
    rows: list[list[str | Cell]] = []
    for found in urgent_first(advice):
        value = NOTHING if found.value is None else value_of(found, found.value)
        limits = [value_of(found, limit) for limit in (found.rule.soon, found.rule.now)]
        rows.append([words(found.name), value, *limits, Cell(found.retrain, kind=KINDS[found.retrain])])
    about = "The most urgent rule decides; --rules sets other thresholds."
    return Table(about, ["", "measured", "soon from", "now from", "train again"], rows)


def no_vectors(drift: Drift) -> str:
    """Why vectors were not compared."""
    if drift.same_vector_space:
        return "The releases have no item in common."
    return (
        "The embedder is another one, so the two releases' vectors lie in different spaces and a distance between them means "
        "nothing. Only items, answers and popularity are compared."
    )


def cosines(found: VectorDrift) -> Figure:
    """How far changed vectors moved."""
    changed = {name: count for name, count in found.items_by_cosine.items() if name != "bit-equal"}
    far = ", ".join(f"{name} {value:.3f}" for name, value in found.cosine.items())
    about = f"Bars further down are items that moved further. Cosine between old and new: {far}."
    title = f"{sum(changed.values()):,} changed items by cosine between old and new"
    return figure("cosine", title, about, bars(changed, "items"), len(changed))


def moved_table(moved: Sequence[Moved]) -> Table:
    """The items whose vectors moved most."""
    return Table("The items that moved most.", ["", "cosine"], [[item(m), f"{m.cosine:.3f}"] for m in moved])


def overlaps(found: AnswerDrift) -> Figure:
    """How many of its answers each question kept."""
    edges = np.linspace(0, 1, 6)
    # The last class includes an overlap of 1, as in a histogram of numpy.
    counts = np.histogram(found.overlaps, edges)[0].tolist()
    names = [f"{100 * low:.0f} to {percent(high, 0)}" for low, high in pairwise(edges)]
    by_share = dict(zip(reversed(names), reversed(counts), strict=True))
    title = f"Questions by how many of their first {found.depth} answers stayed"
    about = "Long bars at the top mean that most people see what they saw before."
    return figure("overlap", title, about, bars(by_share, "questions"), len(by_share))


def answer_facts(found: AnswerDrift) -> Facts:
    """How similar the answers of the two releases are."""
    within = f", 95 % interval {interval}" if (interval := overlap_interval(found)) else ""
    return {
        "questions": f"{found.num_golden} golden queries of the older release, {found.num_made_up} made-up histories",
        f"overlap@{found.depth}": f"{percent(found.overlap)}{within} (least {percent(min(found.overlaps), 0)})",
        "new items among the answers": percent(found.share_added),
        "answers whose item is gone": percent(found.share_removed),
        "rank correlation of the scores": number(found.spearman, "{:.3f}"),
        "score shift": "not known" if found.score_shift is None else f"{signed(found.score_shift, 2)} standard deviations",
        "score spread": number(found.score_spread, "{:.2f} times"),
    }


def movers(about: str, found: Sequence[Mover]) -> Table:
    """Items with their shares of demand before and after."""
    return Table(about, ["", "before", "after"], [[item(m), percent(m.before, 2), percent(m.after, 2)] for m in found])


def item(shown: Moved | Mover) -> Cell:
    """An item's label and id."""
    label = shown.label or ""
    return Cell(label if len(label) <= LABEL_LENGTH else f"{label[: LABEL_LENGTH - 1]}…", shown.item_id)


def sides(drift: Drift) -> Table:
    """What identifies the two releases."""

    def as_of(when: datetime | None) -> str:
        return "the bundle's training" if when is None else moment(when.isoformat())

    facts = [
        [name, of(drift.older), of(drift.newer)]
        for name, of in (
            ("items", lambda s: f"{s.num_items:,}"),
            ("bundle", lambda s: s.bundle_id),
            ("vector space", lambda s: s.vector_space_id),
            ("popularity as of", lambda s: as_of(s.popularity_as_of)),
        )
    ]
    return Table("Equal vector spaces can be compared.", ["", drift.older.release, drift.newer.release], facts)


def number(value: float | None, written: str) -> str:
    """A number, or that it is not known."""
    return "not known" if value is None else written.format(value)
