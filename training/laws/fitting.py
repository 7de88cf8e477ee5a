"""A law from the isoFLOP runs of a ledger: every metric through the same code."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from training.laws.isoflop import IsoFlop, fit_isoflop
from training.laws.selection import Chosen, as_loss, choose, column, higher_is_better, losses, metrics_of
from training.laws.surface import Fitted, Points, fit_surface, limits_reached
from training.sweeps.ledger import Run
from twotower.errors import DataError
from twotower.planning.law import FORMAT_VERSION, Expected, Law, MetricLaw

SWEEP = "isoflop"
USUAL = ("set_loss", "recall@10", "ndcg@10", "mrr@10", "entropy", "coverage@10", "unseen_recall@10")


class MetricFit(NamedTuple):
    """Both approaches for one metric, as losses."""

    metric: str
    points: Points
    valleys: IsoFlop
    fitted: Fitted | None
    problems: list[str]

    def law(self) -> MetricLaw:
        """The fit as the law's file holds it; metrics as they are measured."""
        return MetricLaw(
            higher_is_better=higher_is_better(self.metric),
            parameters=self.valleys.parameters_law,
            events=self.valleys.events_law,
            optima=[replace(one, metric=float(as_loss(self.metric, one.metric))) for one in self.valleys.optima()],
            surface=self.fitted.surface if self.fitted else None,
            curve=[measured(self.metric, one) for one in self.fitted.curve] if self.fitted else [],
            missing=self.problems,
        )


def fit_metric(runs: Sequence[Run], metric: str) -> MetricFit:
    """IsoFLOP valleys and the parametric surface of one metric. What cannot be fitted is a sentence in `problems`."""
    points = Points(
        column(runs, lambda run: run.flops),
        column(runs, lambda run: run.parameters),
        column(runs, lambda run: run.events),
        losses(runs, metric),
    )
    valleys = fit_isoflop(*points)
    try:
        fitted = fit_surface(points)
    except ValueError as error:
        return MetricFit(metric, points, valleys, None, [*valleys.problems, str(error)])
    return MetricFit(metric, points, valleys, fitted, [*valleys.problems, *limits_reached(fitted.law)])


def fit_ledger(runs: Sequence[Run], corpus: str | None, metrics: Sequence[str] | None) -> tuple[Law, list[MetricFit], Chosen]:
    """The law of one corpus. DataError if no metric gives a law or a curve."""
    chosen = choose(runs, corpus, SWEEP)
    known = metrics_of(chosen.runs)
    fits = [fit_metric(chosen.runs, metric) for metric in metrics or [name for name in USUAL if name in known] or known]
    law = Law(
        format_version=FORMAT_VERSION,
        corpus=chosen.corpus,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        smallest_flops=min(run.flops for run in chosen.runs),
        largest_flops=max(run.flops for run in chosen.runs),
        run_keys=sorted(run.key for run in chosen.runs),
        left_out=chosen.counted(),
        metrics={fit.metric: fit.law() for fit in fits},
    )
    if not any(fit.fitted or fit.valleys.parameters_law for fit in fits):
        raise DataError(f"no law can be fitted to {chosen.corpus}: {'; '.join(dict.fromkeys(fits[0].problems))}")
    return law, fits, chosen


def measured(metric: str, expected: Expected) -> Expected:
    """A point of the curve of losses as the metric is measured; the ends change places where higher is better.

    Such metrics are shares, so that they are cut off at 0 and 1.
    """
    value, *ends = (as_loss(metric, end) for end in (expected.value, expected.low, expected.high))
    if higher_is_better(metric):
        value, *ends = (min(max(end, 0.0), 1.0) for end in (value, *ends))
    return Expected(flops=expected.flops, value=value, low=min(ends), high=max(ends))
