"""95 % intervals of the figures of a load test, by resampling whole seconds.

Requests of one second share a queue, so a slow moment makes many of them slow at once. To draw single requests again would make
the intervals too narrow. What lasts longer than a second (a swap of releases, a noisy neighbour) still makes them too narrow.

A: answers in order of latency, S: seconds
"""

import numpy as np

from loadtests.outcomes import GOOD_WITHIN_MS, Fate, Outcomes
from twotower.metrics.ranking import resamples

Within = tuple[float, float]

QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
CONFIDENCE = (0.025, 0.975)
MIN_SECONDS = 10  # fewer tell too little of how seconds differ


def intervals(outcomes: Outcomes, seed: int = 0) -> dict[str, Within]:
    """The intervals of latency quantiles and of shares, by the names of the gate's figures.

    None for a short test, for what a generator computed by itself, and for a share that is the same in every second.
    """
    second_R = np.asarray(outcomes.at_s).astype(np.int64)
    num_seconds = int(second_R.max()) + 1
    if num_seconds < MIN_SECONDS:
        return {}
    fate_R, latency_R = np.asarray(outcomes.fates), np.asarray(outcomes.latency_ms)
    answered_R = np.asarray(outcomes.is_recommend) & (fate_R <= Fate.DEGRADED)
    order = np.argsort(latency_R[answered_R], kind="stable")
    latency_A, second_A = latency_R[answered_R][order], second_R[answered_R][order]
    flags = {
        "error_share": (fate_R >= Fate.REFUSED, np.ones(len(fate_R), bool)),
        "degraded_share": (fate_R == Fate.DEGRADED, answered_R),
        "goodput_share": ((fate_R == Fate.GOOD) & (latency_R <= GOOD_WITHIN_MS), np.ones(len(fate_R), bool)),
    }
    sums = {name: [np.bincount(second_R[part], minlength=num_seconds) for part in parts] for name, parts in flags.items()}
    drawn: dict[str, list[float]] = {name: [] for name in (*QUANTILES, *sums)}
    for pick in resamples(num_seconds, seed):
        times_S = np.bincount(pick, minlength=num_seconds)
        reached_A = np.cumsum(times_S[second_A])
        for name, share in QUANTILES.items():
            if reached_A[-1]:
                drawn[name].append(float(latency_A[np.searchsorted(reached_A, np.ceil(share * reached_A[-1]))]))
        for name, (some_S, all_S) in sums.items():
            drawn[name].append(float(times_S @ some_S / max(int(times_S @ all_S), 1)))
    return {name: ends(values) for name, values in drawn.items() if name not in outcomes.own and len(set(values)) > 1}


def ends(values: list[float]) -> Within:
    """The middle 95 % of some values."""
    low, high = np.quantile(values, CONFIDENCE)
    return float(low), float(high)
