"""The HTML page of a run, for the person who decides whether to ship the model."""

from datetime import UTC, datetime
from typing import Any

from training.evaluation.metrics import BATCH_LOCAL_WARNING
from training.report.curves import agreement, training_curves, validation_curves
from training.report.run_record import RunRecord
from training.report.verdict import headline, kinds_of_answers, parts
from twotower.report.page import Markup, definitions, duration, element, joined, moment, page, plain, section

MEANINGS = {
    "R@10": "share of the next basket's items that are in the top ten, mean over baskets",
    "NDCG@10": "like R@10, but higher ranks count more: the sum of 1 / log2(rank + 1) over its best possible value",
    "MRR@10": "one over the rank of the first right item, 0 if it is not in the top ten",
    "HR@10": "share of baskets with at least one right item in the top ten",
    "unseen R@10": "R@10 of items that the user never had before, ranked among all such items",
    "repeat, explore": "answers that the user had before, or never had",
    "warm, cold": "answers with events in training, or without any",
    "set loss": "-log of the predicted probability of each item of the basket, mean over items, in nats; perplexity is e to it",
    "entropy": "entropy of the predicted distribution, in nats: the higher, the less certain is the model",
    "coverage@10": "share of the catalogue that appears in at least one top ten",
    "Gini@10": "inequality of how often items appear in the top ten: 0 if all equally often, near 1 if always the same ones",
    "debiased R@10": "R@10 with every item weighted by one over its training events, so that best-sellers count little",
    "R@10 by user": "R@10, as a mean over users instead of baskets",
    "batch-local": f"candidates are only the answers of 64 queries; {BATCH_LOCAL_WARNING}",
}


def render(run: RunRecord) -> str:
    """The whole HTML file. Sections without data yet are left out or say so."""
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
    """The name, protocol and dates of the run, and its progress if it has not finished."""
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
        parts.append(element("p", f"There is no journal at {run.directory}, so there are no curves to show.", kind="faint"))
    return joined(parts)


def how_far(run: RunRecord) -> str:
    """The progress of an unfinished run, from the last line of the journal."""
    if not run.journal.steps:
        return "No step has been written yet, so there is nothing to show."
    last = run.journal.steps[-1]
    ago = f", {duration(run.idle_s)} ago" if run.idle_s is not None else ""
    return (
        f"It was {last.progress:.0%} through at step {last.step:,}{ago}, in stage {last.stage}, at a loss of "
        f"{last.loss:.3f} nats. There is no bundle yet, so the page has no verdict. If the run was killed, "
        "`twotower train --resume` continues it."
    )


def facts(run: RunRecord) -> Markup:
    """Everything that is needed to repeat the run or to question it."""
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
        "Time": definitions(time_table(training, run.metrics.get("early_stopping", {}))) if training else "",
        "Configuration": definitions(plain(config) | stages),
        "Environment": definitions(plain(environment)),
    }
    return element("div", *(section(title, content) for title, content in groups.items() if content), kind="columns")


def time_table(training: dict[str, Any], stopping: dict[str, Any]) -> dict[str, str]:
    """How long the run trained and, with early stopping, after which step the bundle's weights were kept."""
    kept = {"weights kept of step": f"{stopping['kept_step']:,}"} if "kept_step" in stopping else {}
    return {"training": duration(training["seconds"]), "steps": f"{training['steps']:,}", **kept}


def share_bar(parameters: dict[str, float]) -> Markup:
    """A bar that shows the embedder's share of all parameters."""
    share = parameters["embedder_share"]
    bar = Markup(f'<div class="bar"><i style="width:{100 * float(share):.2f}%"></i></div>')
    return joined(
        [
            element("p", f"The embedder holds {share:.2%}; the compute-optimal share is about 2 %, 1 to 6 % is nearly as good."),
            bar,
        ]
    )
