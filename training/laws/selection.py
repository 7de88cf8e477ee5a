"""Which runs of a ledger a fit takes: one corpus, one sweep, finished, not excluded, with the metric; the others are counted.

R: runs
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from training.sweeps.ledger import Run
from twotower.errors import DataError
from twotower.metrics.names import LOSSES

Array = npt.NDArray[np.float64]
Values = TypeVar("Values", float, Array)

LOWER_IS_BETTER = LOSSES | {"entropy", "perplexity", "gini@10"}
TEST = "test: "  # before the names of metrics of the test part


class Chosen(NamedTuple):
    """Runs that a fit takes, and those that it leaves out."""

    runs: list[Run]
    corpus: str
    left_out: dict[str, list[str]]  # reason -> keys of runs

    def counted(self) -> dict[str, int]:
        """How many runs each reason leaves out."""
        return {reason: len(keys) for reason, keys in self.left_out.items()}

    def sentence(self) -> str:
        """The runs that are left out, counted and named; empty if there are none."""
        named = [f"{len(keys)} ({reason}): {_named(keys)}" for reason, keys in self.left_out.items()]
        return f"left out of every fit: {'; '.join(named)}" if named else ""


def choose(runs: Sequence[Run], corpus: str | None, sweep: str) -> Chosen:
    """The runs of a sweep on a corpus. DataError if there are none, or if several corpora are mixed and none is chosen.

    `corpus` may be the beginning of a name, if only one begins so.
    """
    of_sweep = [run for run in runs if run.sweep == sweep]
    if not of_sweep:
        raise DataError(
            f"the ledger has no run of the sweep {sweep!r} ({_counted(run.sweep for run in runs) or 'it is empty'}): run "
            f"`twotower sweep` with that grid"
        )
    name = one_corpus(of_sweep, corpus)
    there = [run for run in of_sweep if run.corpus == name]
    left_out: dict[str, list[str]] = {}
    for run in there:
        if reason := _why_left_out(run):
            left_out.setdefault(reason, []).append(run.key)
    chosen = [run for run in there if not _why_left_out(run)]
    if not chosen:
        left = ", ".join(f"{len(keys)} {reason}" for reason, keys in left_out.items())
        raise DataError(
            f"none of the {len(there)} runs of {sweep!r} on {name} can be fitted ({left}): "
            f"run other budgets or sizes, or a smaller learning rate"
        )
    return Chosen(chosen, name, left_out)


def one_corpus(runs: Iterable[Run], corpus: str | None) -> str:
    """The corpus that a name means. DataError unless it is exactly one."""
    names = Counter(run.corpus for run in runs)
    fitting = [name for name in names if corpus in (None, name)] or [name for name in names if name.startswith(corpus or "")]
    if len(fitting) == 1:
        return fitting[0]
    listed = _counted(run.corpus for run in runs)
    if not fitting:
        raise DataError(f"the ledger has no runs on {corpus!r}: choose one of {listed} with --corpus")
    raise DataError(f"the ledger mixes {len(fitting)} corpora, and a law holds for one: choose one of {listed} with --corpus")


def metrics_of(runs: Iterable[Run]) -> list[str]:
    """Metrics that every run has, in the order of the first run."""
    there = [run.metrics for run in runs]
    return [name for name in there[0] if all(name in metrics for metrics in there)]


def higher_is_better(metric: str) -> bool:
    """Whether a metric is a share of successes; what stands before a colon says only where it was measured."""
    return metric.rpartition(": ")[2] not in LOWER_IS_BETTER


def losses(runs: Sequence[Run], metric: str) -> Array:
    """The metric as it is fitted: a loss as it is, and 1 - metric where higher is better. DataError if a run lacks it."""
    lacking = [run.key for run in runs if not np.isfinite(run.metrics.get(metric, np.nan))]
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(runs)} runs have no {metric} ({_named(lacking)}): choose --metric among "
            f"{', '.join(metrics_of(runs))}"
        )
    return as_loss(metric, np.array([run.metrics[metric] for run in runs], float))


def as_loss(metric: str, values: Values) -> Values:
    """1 - metric where higher is better. Its own inverse."""
    return 1 - values if higher_is_better(metric) else values


def label_of_loss(metric: str) -> str:
    """How what is fitted is named."""
    return f"1 - {metric}" if higher_is_better(metric) else metric


def column(runs: Sequence[Run], value: Callable[[Run], float]) -> Array:
    """A value of each run [R]."""
    return np.array([value(run) for run in runs], float)


def by_budget(runs: Iterable[Run]) -> Mapping[float, list[Run]]:
    """Runs by the budget that was asked for, smallest first."""
    groups: dict[float, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.flops):
        groups.setdefault(run.flops, []).append(run)
    return groups


def _why_left_out(run: Run) -> str:
    if run.outcome != "done":
        return run.outcome
    return f"excluded: {run.excluded}" if run.excluded else ""


def _named(keys: Sequence[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count} runs)" for name, count in Counter(names).items())
