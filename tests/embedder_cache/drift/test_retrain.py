"""When to train again."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedder_cache.drift.retrain import (
    Rules,
    SinceTraining,
    advise,
    age_days,
    load_rules,
    sentence,
    since_training,
    urgent_first,
)
from twotower.artefacts.bundle import PROVENANCE, load_bundle
from twotower.artefacts.release import ReleaseInfo
from twotower.errors import DataError, ReleaseMismatch


def since(unseen: float | None, moved: float | None, age: float | None) -> SinceTraining:
    return SinceTraining(unseen_demand=unseen, unseen_items=0.3, popularity_divergence=moved, bundle_age_days=age)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (since(0.01, 0.01, 1), "no"),
        (since(0.01, 0.1, 1), "soon"),
        (since(0.2, 0.1, 1), "now"),
        (since(None, None, 1), "unknown"),
        (since(None, None, 31), "soon"),
        (None, "unknown"),
    ],
)
def test_the_most_urgent_finding_decides_and_no_takes_knowing_all(found: SinceTraining | None, expected: str) -> None:
    assert advise(found, Rules()).retrain == expected


def test_findings_say_their_numbers_and_limits_the_most_urgent_first() -> None:
    said = [sentence(finding) for finding in urgent_first(advise(since(None, 0.15, 10), Rules()))]
    assert said == [
        "demand is 0.15 bits from that of training (soon from 0.10, now from 0.20)",
        "? of demand is for items without an event in training: the release was published without --events",
        "the bundle was trained 10 days ago (soon from 30, now from 90)",
    ]


def test_rules_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("[bundle_age_days]\nsoon = 7\nnow = 14\n")
    rules = load_rules(tmp_path / "rules.toml")
    assert advise(since(0.0, 0.0, 14), rules).retrain == "now"
    assert rules.unseen_demand == load_rules(None).unseen_demand


@pytest.mark.parametrize("text", ["[typo]\nsoon = 1\nnow = 2", "[unseen_demand]\nsoon = 0.5\nnow = 0.2", "= 3"])
def test_rules_that_mean_nothing_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(DataError, match=r"rules\.toml"):
        load_rules(tmp_path / "rules.toml")


def info(bundle_id: str, as_of_ms: int | None) -> ReleaseInfo:
    return ReleaseInfo(bundle_id=bundle_id, vector_space_id="s", num_items=4, vector_width=33, popularity_as_of_ms=as_of_ms)


def test_demand_for_items_without_an_event_in_training_is_counted(tiny_bundle: Path) -> None:
    """The bundle lists 400 items, the last at the lowest popularity, and has never heard of the one that is wanted."""
    bundle = load_bundle(tiny_bundle)
    listed = bundle.popularity.column("item_id").to_pylist()
    ids = pa.array([listed[0], listed[1], listed[-1], "new"])
    found = since_training(bundle, "r", info(bundle.manifest.id, 1), ids, np.array([0.3, 0.3, 0.1, 0.3]))
    assert found.unseen_demand == pytest.approx(0.4)
    assert found.unseen_items == 0.5
    assert found.popularity_divergence is not None
    assert 0.5 < found.popularity_divergence < 1


def test_a_release_with_the_popularity_of_training_tells_nothing_of_demand(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    found = since_training(bundle, "r", info(bundle.manifest.id, None), pa.array(["new"]), np.array([1.0]))
    assert (found.unseen_demand, found.popularity_divergence, found.unseen_items) == (None, None, 1.0)


def test_another_bundle_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ReleaseMismatch, match="made by bundle-other"):
        since_training(load_bundle(tiny_bundle), "r", info("bundle-other", None), pa.array(["new"]), np.array([1.0]))


def test_a_bundle_is_as_old_as_its_provenance_says(tmp_path: Path) -> None:
    (tmp_path / PROVENANCE).write_text(json.dumps({"created": "2026-01-01T12:00:00+00:00"}))
    assert age_days(tmp_path, datetime(2026, 1, 11, tzinfo=UTC)) == 9.5
    (tmp_path / PROVENANCE).write_text("{}")
    assert age_days(tmp_path, datetime(2026, 1, 11, tzinfo=UTC)) is None
