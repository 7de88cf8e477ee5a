"""The drift report as one HTML page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from embedder_cache.drift.answers import AnswerDrift
from embedder_cache.drift.drift import Drift, Moved, Mover, PopularityDrift, VectorDrift
from embedder_cache.drift.retrain import sentence, urgent_first
from twotower.report.page import Markup, definitions, element, figure, joined, moment, page, section, table
from twotower.report.svg import INK, MODEL, drawing

COLOURS = {"no": "better", "soon": "undecided", "now": "worse", "unknown": ""}
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
    older, newer = drift.older, drift.newer
    return page(
        f"{newer.release} - drift",
        element("h1", f"What changed in {newer.release}"),
        element("p", f"since {older.release}; page written {moment(datetime.now(UTC).isoformat())}", kind="faint"),
        verdict(drift),
        tiles(drift),
        vectors(drift.vectors) if drift.vectors else no_vectors(drift),
        answers(drift.answers) if drift.answers else "",
        popularity(drift.popularity),
        sides(drift),
        element("details", element("summary", "What the figures mean"), definitions(MEANINGS)),
    )


def verdict(drift: Drift) -> Markup:
    """The advice to train again or not, with its reasons."""
    advice = drift.advice
    said = [
        element("p", element("span", element("b", f.retrain), kind=COLOURS[f.retrain]), " · ", sentence(f))
        for f in urgent_first(advice)
    ]
    return element(
        "div",
        element("strong", ADVICE[advice.retrain]),
        *(said or [element("p", UNKNOWN)]),
        kind=f"verdict {COLOURS[advice.retrain]}".strip(),
    )


def tiles(drift: Drift) -> Markup:
    """The four figures at the top of the page."""
    items, found = drift.items, drift.vectors
    shown = [tile("items", f"{drift.newer.num_items:,}", f"+{items.added:,} new, −{items.removed:,} gone")]
    if found:
        shown.append(tile("vectors changed", f"{found.changed_share:.1%}", f"{found.bit_equal:,} items are bit-equal"))
    else:
        shown.append(tile("vectors changed", "–", "not comparable"))
    if drift.answers:
        num = len(drift.answers.overlaps)
        shown.append(tile("answers kept", f"{drift.answers.overlap:.0%}", f"of the first {drift.answers.depth}, {num} questions"))
    shown.append(tile("demand moved", f"{drift.popularity.divergence:.2f} bits", "0 the same, 1 nothing in common"))
    if drift.since_training:
        asked = number(drift.since_training.unseen_demand, "{:.1%}")
        shown.append(tile("unseen in training", f"{drift.since_training.unseen_items:.0%}", f"of the items; of demand: {asked}"))
    return element("div", *shown, kind="tiles")


def tile(name: str, value: str, about: str) -> Markup:
    """One figure with its name and a note."""
    return element("div", element("div", name), element("b", value), element("span", about), kind="tile")


def no_vectors(drift: Drift) -> Markup:
    """Why vectors were not compared."""
    why = "The releases have no item in common."
    if not drift.same_vector_space:
        why = (
            "The embedder is another one, so the two releases' vectors lie in different spaces and a distance between them means "
            "nothing. Only items, answers and popularity are compared."
        )
    return section("Vectors", element("p", why))


def vectors(found: VectorDrift) -> Markup:
    """How far changed vectors moved, and which items moved most."""
    changed = {name: count for name, count in found.items_by_cosine.items() if name != "bit-equal"}
    total = sum(changed.values())
    if not total:
        return section("Vectors", element("p", f"All {found.bit_equal:,} common items are bit-equal."))
    far = ", ".join(f"{name} {value:.3f}" for name, value in found.cosine.items())
    return section(
        "Vectors",
        element("p", f"{total:,} items changed. Cosine between old and new: {far}.", kind="faint"),
        element(
            "div",
            figure("changed items by cosine between old and new", drawing("cosine", lambda axes: bars(axes, changed))),
            element("div", moved_table(found.most_moved)),
            kind="columns",
        ),
    )


def moved_table(moved: Sequence[Moved]) -> Markup:
    """A table of the items whose vectors moved most."""
    rows = [[item(m), f"{m.cosine:.3f}"] for m in moved]
    return table("The items that moved most", ["", "cosine"], rows)


def answers(found: AnswerDrift) -> Markup:
    """How similar the answers of the two releases are."""
    edges = np.linspace(0, 1, 6)
    # The last class includes an overlap of 1, as in a histogram of numpy.
    counts = np.histogram(found.overlaps, edges)[0].tolist()
    names = [f"{low:.0%} to {high:.0%}" for low, high in pairwise(edges)]
    by_share = dict(zip(reversed(names), reversed(counts), strict=True))
    facts = {
        "questions": f"{found.num_golden} golden queries of the older release, {found.num_made_up} made-up histories",
        f"overlap@{found.depth}": f"{found.overlap:.1%} (least {min(found.overlaps):.0%})",
        "new items among the answers": f"{found.share_added:.1%}",
        "answers whose item is gone": f"{found.share_removed:.1%}",
        "rank correlation of the scores": number(found.spearman, "{:.3f}"),
        "score shift": number(found.score_shift, "{:+.2f} standard deviations"),
        "score spread": number(found.score_spread, "{:.2f} times"),
    }
    return section(
        "Answers",
        element(
            "div",
            figure(
                f"questions by how many of their first {found.depth} answers stayed",
                drawing("overlap", lambda axes: bars(axes, by_share)),
            ),
            definitions(facts),
            kind="columns",
        ),
    )


def popularity(found: PopularityDrift) -> Markup:
    """The items that gained and lost the most demand."""
    about = f"Spearman's rank correlation over common items: {number(found.spearman, '{:.3f}')}. Shares are of all demand."
    return section(
        "Popularity",
        element("p", about, kind="faint"),
        element(
            "div",
            element("div", movers("Biggest risers", found.risers)),
            element("div", movers("Biggest fallers", found.fallers)),
            kind="columns",
        ),
    )


def movers(caption: str, found: Sequence[Mover]) -> Markup:
    """A table of items with their shares of demand before and after."""
    rows = [[item(m), f"{m.before:.2%}", f"{m.after:.2%}"] for m in found]
    return table(caption, ["", "before", "after"], rows)


def item(shown: Moved | Mover) -> Markup:
    """An item's label and id."""
    label = shown.label or ""
    return joined([label if len(label) <= LABEL_LENGTH else f"{label[: LABEL_LENGTH - 1]}…", element("small", shown.item_id)])


def sides(drift: Drift) -> Markup:
    """A table that identifies the two releases."""

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
    return section("The two releases", table("", ["", drift.older.release, drift.newer.release], facts))


def number(value: float | None, written: str) -> str:
    """A number, or a dash when it is not known."""
    return "not known" if value is None else written.format(value)


def bars(axes: Axes, counts: dict[str, int]) -> None:
    """A bar chart: one bar for each class from the top, with its count at the end."""
    drawn = axes.barh(list(counts), list(counts.values()), color=MODEL, height=0.7)
    axes.bar_label(drawn, [f"{count:,}" for count in counts.values()], padding=3, color=INK)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.12)
