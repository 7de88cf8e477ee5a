"""Advice on when to train again, from a few numbers about the time since training, each with two thresholds.

N: items
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedder_cache.catalogue.demand import Shares, demand, divergence, over_either
from twotower.artefacts.bundle import PROVENANCE, Bundle
from twotower.artefacts.release import ReleaseInfo
from twotower.data.features import Ints
from twotower.errors import DataError, ReleaseMismatch

Level = Literal["no", "unknown", "soon", "now"]
LEVELS: tuple[Level, ...] = ("no", "unknown", "soon", "now")  # the most urgent finding decides: "no" needs every number
DAY_S = 86_400
# Of each rule: the sentence about its number, the number's format, and why the number may be unknown.
_NO_EVENTS = "the release was published without --events"
MEANINGS = {
    "unseen_demand": ("{} of demand is for items without an event in training", "{:.1%}", _NO_EVENTS),
    "popularity_divergence": ("demand is {} bits from that of training", "{:.2f}", _NO_EVENTS),
    "bundle_age_days": ("the bundle was trained {} days ago", "{:.0f}", "its provenance does not say"),
}


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values from which on to train again soon, and now."""

    soon: float
    now: float

    def __post_init__(self) -> None:
        if not 0 <= self.soon <= self.now:
            raise ValueError(f"soon = {self.soon:g}, now = {self.now:g}: give 0 <= soon <= now")


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The thresholds, which an operator may set as TOML. The defaults are habits, not findings: adjust them to your shop.

    On Complete Journey with its half-life of 14 days, demand was .04 bits from where it had been after 14 days, .08 after 30
    and .17 after 120, and 1.5 %, 3 % and 8 % of it were for items that had not been bought before.
    """

    unseen_demand: Rule = Rule(soon=0.05, now=0.15)
    popularity_divergence: Rule = Rule(soon=0.1, now=0.2)
    bundle_age_days: Rule = Rule(soon=30, now=90)


class SinceTraining(msgspec.Struct, frozen=True, kw_only=True):
    """The newer release compared with its bundle's training. None stands for what cannot be known."""

    unseen_demand: float | None
    unseen_items: float
    popularity_divergence: float | None
    bundle_age_days: float | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One number, its thresholds, and the advice that follows from it."""

    name: str
    value: float | None
    rule: Rule
    retrain: Level


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """The most urgent of the findings, or "unknown" without any."""

    retrain: Level
    findings: list[Finding]


def load_rules(path: Path | None) -> Rules:
    """Rules of a TOML file, or the defaults without one; DataError names the offending key."""
    if path is None:
        return Rules()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Rules)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def since_training(bundle: Bundle, release: str, info: ReleaseInfo, item_ids: pa.Array, demand_N: Shares) -> SinceTraining:
    """Compare a release with the training of its bundle; ReleaseMismatch when another bundle made it.

    An item is unseen when the bundle does not list it, or lists it with its lowest popularity, which is that of items without
    events. Demand is unknown when the release has popularity as of training.
    """
    if info.bundle_id != bundle.manifest.id:
        raise ReleaseMismatch(
            f"{release} was made by {info.bundle_id}, and {bundle.path} is {bundle.manifest.id}: give the bundle that made it"
        )
    known = bundle.popularity.column("item_id").combine_chunks()
    found = pc.index_in(known, item_ids)
    rows: Ints = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    listed = bundle.popularity.column("log_popularity").combine_chunks()
    trained = demand(pc.list_element(listed, 0).to_numpy(zero_copy_only=False))
    seen_N = np.zeros(len(item_ids), bool)
    seen_N[rows[(rows >= 0) & (trained > 0)]] = True
    unseen_demand = moved = None
    if info.popularity_as_of_ms is not None:
        unseen_demand = float(demand_N[~seen_N].sum())
        moved = divergence(*over_either(trained, demand_N, rows)[:2])
    return SinceTraining(
        unseen_demand=unseen_demand,
        unseen_items=float((~seen_N).mean()),
        popularity_divergence=moved,
        bundle_age_days=age_days(bundle.path, datetime.now(UTC)),
    )


def age_days(bundle: Path, now: datetime) -> float | None:
    """Age of a bundle in days, from `created` in its provenance; None when that is missing."""
    created = json.loads((bundle / PROVENANCE).read_bytes()).get("created")
    return None if created is None else (now - datetime.fromisoformat(created)).total_seconds() / DAY_S


def advise(since: SinceTraining | None, rules: Rules) -> Advice:
    """The findings of all rules. Without a bundle there are none."""
    numbers = {} if since is None else {name: getattr(since, name) for name in MEANINGS}
    findings = []
    for name, value in numbers.items():
        rule = getattr(rules, name)
        findings.append(Finding(name=name, value=value, rule=rule, retrain=level(value, rule)))
    return Advice(retrain=max((f.retrain for f in findings), key=LEVELS.index, default="unknown"), findings=findings)


def level(value: float | None, rule: Rule) -> Level:
    """The advice that follows from one number."""
    if value is None:
        return "unknown"
    return "now" if value >= rule.now else "soon" if value >= rule.soon else "no"


def urgent_first(advice: Advice) -> list[Finding]:
    """The findings, the most urgent first."""
    return sorted(advice.findings, key=lambda finding: LEVELS.index(finding.retrain), reverse=True)


def sentence(finding: Finding) -> str:
    """A finding as a sentence: the number, its meaning and its thresholds."""
    what, written, why_not = MEANINGS[finding.name]
    if finding.value is None:
        return f"{what.format('?')}: {why_not}"
    value, soon, now = map(written.format, (finding.value, finding.rule.soon, finding.rule.now))
    return f"{what.format(value)} (soon from {soon}, now from {now})"
