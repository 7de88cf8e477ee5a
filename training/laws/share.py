"""The embedder's share of all parameters: where its valley has the bottom, and how wide it is flat."""

from collections.abc import Sequence

from training.laws.selection import by_budget, column, losses
from training.laws.valley import Curve, Group, fit_curves
from training.sweeps.ledger import Run


def share_curves(runs: Sequence[Run], metric: str) -> list[Curve]:
    """A valley over the share for each budget; `flat` of a valley is the band in which a run's noise hides the difference."""
    groups = [Group(flops, column(here, lambda run: run.share), losses(here, metric)) for flops, here in by_budget(runs).items()]
    return fit_curves(groups, "shares", percent)


def percent(share: float) -> str:
    """A share with two digits: 2.1 %."""
    return f"{100 * share:.2g} %"
