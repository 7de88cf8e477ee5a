"""Compares answers to real requests: the new release must do as well as the served one and better than popularity.

N: items, V: vector width, Q: requests
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from embedder_cache.catalogue.opened_release import OpenedRelease
from embedder_cache.checks.gates import Gate, Limits
from embedder_cache.checks.probe import (
    PERIOD_DAYS,
    Probe,
    ProbeAnswers,
    ask,
    ask_popularity,
    overlap,
    read_probe,
)
from twotower.artefacts.bundle import Bundle
from twotower.data.features import DAY_MS
from twotower.data.schema import utc_ms
from twotower.errors import ArtefactError, EnvironmentProblem
from twotower.metrics.ranking import Array, user_bootstrap
from twotower.progress import say

HOLDOUT = ("holdout_recall10", "holdout_ndcg10")


@dataclass(frozen=True, slots=True)
class HoldoutAnswers:
    """Real requests, and the answers of the new release and of the one `served` now."""

    probe: Probe
    new: ProbeAnswers
    served: OpenedRelease | None
    old: ProbeAnswers | None


def ask_both(
    events: Path,
    until_ms: int,
    bundle: Bundle,
    item_ids: pa.Array,
    vectors_NV: npt.NDArray[np.float32],
    served: OpenedRelease | None,
) -> HoldoutAnswers | None:
    """Answers to requests of the last week of the log, which ends at `until_ms`; None when it has none, which is said."""
    comparable = _comparable(served)
    others = [] if comparable is None else [comparable.towers]
    probe = read_probe(events, item_ids, until_ms, bundle.towers, *others)
    if not len(probe):
        say("  no user of the last week bought what the catalogue holds, so no answers are compared")
        return None
    split = bundle.towers.schema.split
    if split is not None and utc_ms(split.validation_from) > until_ms - PERIOD_DAYS * DAY_MS:
        say("  WARNING: the bundle was trained on events of the last week, so its hold-out numbers flatter it")
    new = ask(probe, bundle.towers, item_ids, torch.from_numpy(vectors_NV))
    if comparable is None:
        return HoldoutAnswers(probe, new, None, None)
    old = ask(probe, comparable.towers, comparable.item_ids, torch.from_numpy(comparable.vectors_NV))
    return HoldoutAnswers(probe, new, comparable, old)


def holdout_gates(holdout: HoldoutAnswers, bundle: Bundle, item_ids: pa.Array, limits: Limits) -> list[Gate]:
    """The gates that compare the new release with popularity and, where there is one, with the release served now."""
    gates = []
    for name, ours, popular in zip(
        HOLDOUT, _graded(holdout.new), ask_popularity(holdout.probe, bundle.towers.config), strict=True
    ):
        gates.append(no_worse(f"{name}_over_popularity", ours, popular, 1.0))
    if holdout.served is None or holdout.old is None:
        return gates
    for name, ours, theirs in zip(HOLDOUT, _graded(holdout.new), _graded(holdout.old), strict=True):
        gates.append(no_worse(name, ours, theirs, limits.holdout))
    least = limits.overlap20_same_bundle if holdout.served.info.bundle_id == bundle.manifest.id else limits.overlap20
    shared = overlap(holdout.new, item_ids, holdout.old, holdout.served.item_ids)
    gates.append(Gate(name="overlap20", value=shared, at_least=least))
    kept = limits.coverage20 * holdout.old.coverage
    gates.append(Gate(name="coverage20", value=holdout.new.coverage, at_least=kept, base=holdout.old.coverage))
    return gates


def _graded(answers: ProbeAnswers) -> tuple[Array, Array]:
    return answers.recall10_Q, answers.ndcg10_Q


def _comparable(served: OpenedRelease | None) -> OpenedRelease | None:
    """The release served now; None, which is said, when its towers, items or vectors cannot be read."""
    try:
        if served is not None:
            _ = served.verified().towers, served.item_ids, served.vectors_NV
        return served
    except (ArtefactError, EnvironmentProblem, OSError, ValueError, pa.ArrowInvalid) as error:
        say(f"  the release served now cannot be read, so real requests are compared with popularity alone: {error}")
        return None


def no_worse(name: str, ours_Q: Array, theirs_Q: Array, share: float) -> Gate:
    """The gate that our mean is at least `share` of theirs. It fails only when the difference is larger than chance explains.

    The limit is `share` of their mean, less the distance from the mean of the paired difference to the upper end of its 95 %
    interval (requests resampled). A release that is exactly `share` as good is therefore refused one time in 40.
    """
    missing_Q = ours_Q - share * theirs_Q
    _, high = user_bootstrap(missing_Q, np.arange(len(missing_Q)))
    noise, base = high - float(missing_Q.mean()), float(theirs_Q.mean())
    return Gate(name=name, value=float(ours_Q.mean()), at_least=share * base - noise, base=base, noise=noise)
