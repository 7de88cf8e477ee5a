"""The rules by which a run is left out of fits. They are fixed before the runs, and the ledger says which rule took which run."""

from training.sweeps.ledger import Run

FEWEST_STEPS = 60  # the warm-up is 5 % of them
MOST_PASSES = 16.0  # over the training events: the value of repeated text is gone by then (Muennighoff et al. 2023)
OFF_BUDGET = 0.05


def excluded(run: Run) -> str:
    """The first rule that leaves this run out, or nothing."""
    if run.outcome != "done":
        return run.outcome
    if run.metrics.get("steps", 0.0) < FEWEST_STEPS:
        return f"fewer than {FEWEST_STEPS} steps"
    if run.events > MOST_PASSES * run.distinct_events:
        return f"more than {MOST_PASSES:.0f} passes over the events"
    if abs(run.flops_exact / run.flops - 1) > OFF_BUDGET:
        return f"more than {OFF_BUDGET:.0%} off its budget"
    return ""
