"""One run as one HTML page, for the person who decides whether to ship it."""

from datetime import UTC, datetime
from typing import Any

from training.evaluation.metrics import BATCH_LOCAL_WARNING
from training.report.curves import agreement, training_curves, validation_curves
from training.report.run_record import RunRecord
from training.report.verdict import headline, kinds_of_answers, parts
from twotower.report.page import Markup, definitions, duration, element, joined, moment, page, plain, section

MEANINGS = {
    "R@10": "share of the next basket's items that are among the first ten, mean over baskets",
    "NDCG@10": "the same with more weight at the top of the list: 1 / log2(rank + 1) over the best possible",
    "MRR@10": "one over the rank of the first right item, 0 beyond ten",
    "HR@10": "share of baskets with at least one right item in the first ten",
    "unseen R@10": "R@10 of the items the user never had before, ranked among all that the user never had",
    "repeat, explore": "answers that the user had before, or had not",
    "warm, cold": "answers with events in training, or without any",
    "set loss": "-log of the probability that each item of the basket got, mean over items, in nats; perplexity is e to it",
    "entropy": "of the predicted distribution, in nats: how undecided the model is",
    "coverage@10": "share of the catalogue that appears in any of the lists of ten",
    "Gini@10": "inequality of how often items appear in them: 0 all equally, 1 always the same",
    "debiased R@10": "R@10 with every item weighted by one over its events in training, so that best-sellers count little",
    "R@10 by user": "R@10, mean over users instead of baskets",
    "batch-local": f"candidates are only the answers of 64 queries; {BATCH_LOCAL_WARNING}",
}


def render(run: RunRecord) -> str:
    """The whole file; parts of which nothing is known yet are left out or say so."""
    test = run.metrics.get("quality", {}).get("test", {})
    name = run.bundle.name
    return page(
        f"{name} - twotower run",
        header(run),
        headline(test, run.noted.get("candidates", "full catalogue")) if test else "",
        kinds_of_answers(test) if test else "",
        parts(run.metrics["quality"]) if run.is_finished else "",
        validation_curves(run),
        training_curves(run),
        agreement(run),
        facts(run),
        element("details", element("summary", "What the figures mean"), definitions(MEANINGS)),
    )


def header(run: RunRecord) -> Markup:
    """What run this is, and how far it is."""
    noted = run.noted
    chosen_by = noted.get("config", {}).get("metric", "an unknown metric")
    protocol = noted.get("config", {}).get("protocol", "protocol unknown")
    begun = moment(run.journal.config["created"]) if run.journal.config else "at an unknown time"
    now = moment(datetime.now(UTC).isoformat())
    parts = [
        element("h1", run.bundle.name),
        element("p", f"{protocol}, chosen by {chosen_by}; begun {begun}; page written {now}", kind="faint"),
    ]
    if not run.is_finished:
        parts.append(
            element("div", element("strong", "This run has not finished"), element("p", how_far(run)), kind="verdict undecided")
        )
    elif not run.journal.steps:
        parts.append(element("p", f"No journal lies at {run.directory}: there are no curves to show.", kind="faint"))
    return joined(parts)


def how_far(run: RunRecord) -> str:
    """The last thing the journal holds."""
    if not run.journal.steps:
        return "No step has been noted yet. There is nothing to see before the first."
    last = run.journal.steps[-1]
    heard = f", {duration(run.heard_s)} ago" if run.heard_s is not None else ""
    return (
        f"It was {last.progress:.0%} through at step {last.step:,}{heard}, in stage {last.stage}, at a loss of "
        f"{last.loss:.3f} nats. There is no bundle, so nothing can be said about shipping it. If it was killed, "
        "`twotower train --resume` goes on."
    )


def facts(run: RunRecord) -> Markup:
    """Everything needed to repeat the run or to doubt it."""
    noted = run.noted
    config = dict(noted.get("config", {}))
    stages = {
        f"stage {n}": ", ".join(f"{key} {value}" for key, value in stage.items())
        for n, stage in enumerate(config.pop("stages", []), start=1)
    }
    parameters, training = noted.get("parameters", {}), run.metrics.get("training", {})
    environment: dict[str, Any] = {k: noted[k] for k in ("created", "commit", "cores", "threads", "command") if k in noted}
    environment |= noted.get("versions", {})
    groups = {
        "Parameters": joined([share_bar(parameters), definitions(plain(parameters))]) if parameters else "",
        "Data": definitions(plain(noted.get("data", {}))),
        "Time": definitions({"training": duration(training["seconds"]), "steps": f"{training['steps']:,}"}) if training else "",
        "Configuration": definitions(plain(config) | stages),
        "Environment": definitions(plain(environment)),
    }
    return element("div", *(section(title, content) for title, content in groups.items() if content), kind="columns")


def share_bar(parameters: dict[str, float]) -> Markup:
    """The embedder's share of all parameters, drawn."""
    share = parameters["embedder_share"]
    bar = Markup(f'<div class="bar"><i style="width:{100 * float(share):.2f}%"></i></div>')
    return joined(
        [element("p", f"The embedder holds {share:.2%}; the compute-optimal share is about 2 %, good from 1 to 6 %."), bar]
    )
