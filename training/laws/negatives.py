"""The number of negatives K after freezing: where more of them no longer help, by budget and by how they are drawn."""

from collections.abc import Sequence

import numpy as np

from training.laws.selection import Array, by_budget, column, losses
from training.laws.valley import Curve, Group, fit_curves
from training.sweeps.ledger import Run
from twotower.planning.compute_optimal import short

WAYS = ("drawn uniformly", "half by popularity, corrected by logQ", "half by popularity, uncorrected")


def how_drawn(run: Run) -> str:
    """How the negatives of a run were drawn, one of WAYS."""
    if not run.settings.get("popular", False):
        return WAYS[0]
    return WAYS[1] if run.log_q else WAYS[2]


def by_way(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by how their negatives were drawn."""
    return {way: drawn for way in WAYS if (drawn := [run for run in runs if how_drawn(run) == way])}


def negatives_curves(runs: Sequence[Run], metric: str) -> dict[str, list[Curve]]:
    """For each way of drawing, a valley over K for each budget. What a model's size does to the loss is taken out before."""
    curves = {}
    for way, drawn in by_way(runs).items():
        groups = []
        for flops, here in by_budget(drawn).items():
            size_R = column(here, lambda run: run.parameters)
            loss_R = without_means(losses(here, metric), size_R)
            groups.append(Group(flops, column(here, lambda run: run.negatives), loss_R, len(np.unique(size_R))))
        curves[way] = fit_curves(groups, "numbers of negatives", short)
    return curves


def without_means(loss_R: Array, block_R: Array) -> Array:
    """Losses whose mean in every block is the mean of all."""
    means = {block: loss_R[block_R == block].mean() for block in np.unique(block_R)}
    shifted: Array = loss_R - np.array([means[block] for block in block_R]) + loss_R.mean()
    return shifted
