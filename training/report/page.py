"""The HTML page of a run, for the person who decides whether to ship the model."""

from pathlib import Path
from typing import Any

from training.report.comparison import MEANINGS, compared, parts_table
from training.report.curves import agreement, training_curves, validation_curves
from training.report.run_record import RunRecord
from twotower.report import page
from twotower.report.numbers import SPACE, duration, moment, percent, plain
from twotower.report.parts import Facts, Verdict

TEMPLATE = Path(__file__).with_name("run.html")


def render(run: RunRecord) -> str:
    """The whole HTML file. Parts without data yet are left out or say so."""
    test = run.metrics.get("quality", {}).get("test", {})
    config = run.noted.get("config", {})
    content = {
        "run": run,
        "protocol": config.get("protocol", "protocol unknown"),
        "chosen_by": config.get("metric", "an unknown metric"),
        "begun": moment(run.journal.config["created"]) if run.journal.config else "at an unknown time",
        "unfinished": None if run.is_finished else Verdict("undecided", "This run has not finished", [how_far(run)]),
        "compared": compared(test, run.noted.get("candidates", "full catalogue")) if test else None,
        "parts_of_split": parts_table(run.metrics["quality"]) if run.is_finished else None,
        "validation": validation_curves(run),
        "training": training_curves(run),
        "agreement": agreement(run),
        "share": embedder_share(run.noted.get("parameters", {})),
        "facts": facts(run),
        "meanings": MEANINGS,
    }
    return page.render(TEMPLATE, f"{run.bundle.name} - twotower run", content)


def how_far(run: RunRecord) -> str:
    """The progress of an unfinished run, from the last line of the journal."""
    if not run.journal.steps:
        return "No step has been written yet, so there is nothing to show."
    last = run.journal.steps[-1]
    ago = f", {duration(run.idle_s)} ago" if run.idle_s is not None else ""
    return (
        f"It was {percent(last.progress, 0)} through at step {last.step:,}{ago}, in stage {last.stage}, at a loss of "
        f"{last.loss:.3f} nats. There is no bundle yet, so the page has no verdict. If the run was killed, "
        "`twotower train --resume` continues it."
    )


def embedder_share(parameters: dict[str, float]) -> tuple[float, str] | None:
    """The embedder's share of all parameters in per cent, and a sentence about it."""
    if not parameters:
        return None
    share = float(parameters["embedder_share"])
    best = f"the compute-optimal share is about 2{SPACE}%, 1 to 6{SPACE}% is nearly as good"
    return 100 * share, f"The embedder holds {percent(share, 2)}; {best}."


def facts(run: RunRecord) -> dict[str, Facts]:
    """Everything that is needed to repeat the run or to question it, in groups."""
    noted = run.noted
    config = dict(noted.get("config", {}))
    stages = {
        f"stage {n}": ", ".join(f"{key} {value}" for key, value in stage.items())
        for n, stage in enumerate(config.pop("stages", []), start=1)
    }
    training = run.metrics.get("training", {})
    environment: dict[str, Any] = {k: noted[k] for k in ("created", "commit", "cores", "threads", "command") if k in noted}
    environment |= noted.get("versions", {})
    groups = {
        "Parameters": plain(noted.get("parameters", {})),
        "Data": plain(noted.get("data", {})),
        "Time": time_table(training, run.metrics.get("early_stopping", {})) if training else {},
        "Configuration": plain(config) | stages,
        "Environment": plain(environment),
    }
    return {name: group for name, group in groups.items() if group}


def time_table(training: dict[str, Any], stopping: dict[str, Any]) -> dict[str, str]:
    """How long the run trained and, with early stopping, after which step the bundle's weights were kept."""
    kept = {"weights kept of step": f"{stopping['kept_step']:,}"} if "kept_step" in stopping else {}
    return {"training": duration(training["seconds"]), "steps": f"{training['steps']:,}", **kept}
