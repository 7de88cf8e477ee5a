"""What each step decides, with commands that the test answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.twotower.nightly.conftest import Commands
from twotower.artefacts.release import open_store, read_pointer, write_pointer
from twotower.errors import StoreError
from twotower.nightly import steps
from twotower.nightly.bundles import bundle_id
from twotower.nightly.config import DataTable, RetentionTable, TrainTable, WarmTable
from twotower.nightly.run import Run, StepFailed, StepRefused
from twotower.nightly.status import new_night, write_night


@pytest.fixture
def shop(run: Run, tiny_shop: Path, tiny_store: Path) -> Run:
    """A run with the tiny shop's files and store, whose bundle is not among those of the nights."""
    shutil.copytree(tiny_shop, run.home, dirs_exist_ok=True)
    shutil.rmtree(run.home / "store")
    shutil.copytree(tiny_store, run.home / "store")
    return run


def with_train(run: Run, **changes: Any) -> None:
    run.config = replace(run.config, train=TrainTable(**changes))


def test_files_that_are_not_there_end_the_night_at_once(shop: Run, commands: Commands) -> None:
    shop.config = replace(shop.config, data=replace(shop.config.data, ingest=("./export.sh",)))
    shop.night.step("ingest").state = "running"
    commands.answers = {"./export.sh": ""}
    assert steps.ingest(shop).message == "brought up to date"
    (shop.home / "items.parquet").unlink()
    with pytest.raises(StepFailed, match=r"items\.parquet is not there"):
        steps.ingest(shop)


def test_the_split_ends_with_the_last_event_and_the_first_error_is_told(shop: Run, commands: Commands) -> None:
    shop.night.step("validate").state = "running"
    commands.answers = {"validate": "warning  events: a\ntraining can use this data"}
    assert steps.validate(shop).message == "training can use this data; warnings in validate.log: 1"
    schema = (shop.folder / steps.SCHEMA).read_text()
    assert "validation_from = 2025-04-16" in schema
    assert "test_from = 2025-04-23" in schema

    def refuse(_: list[str]) -> tuple[int, str]:
        (shop.folder / "validate.log").write_text("")
        return 1, "error    split: no\n1 error: training would refuse this data"

    commands.answers = {"validate": refuse}
    with pytest.raises(StepFailed, match="training would refuse"):
        steps.validate(shop)


def trained(words: list[str], bundle: Path) -> str:
    shutil.copytree(bundle, words[words.index("--out") + 1])
    return ""


def test_without_a_bundle_one_is_trained_and_a_second_time_it_is_there(shop: Run, tiny_bundle: Path, commands: Commands) -> None:
    shop.night.step("train").state = "running"
    commands.answers = {"train": lambda words: trained(words, tiny_bundle)}
    assert "the bundle of the current release is not here" in steps.train(shop).message
    assert shop.night.bundle == str(shop.folder / "bundle")
    line = commands.lines[0]
    assert line[:2] == ["train", "demo"]
    assert line[line.index("--schema") + 1] == str(shop.folder / steps.SCHEMA)
    assert "--resume" in line


def test_a_young_bundle_stays_and_an_old_one_is_trained_again(shop: Run, tiny_bundle: Path, commands: Commands) -> None:
    shop.night.step("train").state = "running"
    kept = shop.nights / "2026-05-25" / "bundle"
    shutil.copytree(tiny_bundle, kept)
    assert steps.train(shop).state == "skipped"
    assert (shop.night.bundle, commands.lines) == (str(kept), []), "the store never had another release to compare with"
    with_train(shop, every_days=6)
    commands.answers = {"train": lambda words: trained(words, tiny_bundle)}
    assert steps.train(shop).message.endswith("the last one is 6 days old")


@pytest.mark.parametrize(
    ("advice", "on_drift", "trains"),
    [("now", "now", True), ("soon", "now", False), ("soon", "soon", True), ("now", "never", False)],
)
def test_drift_trains_again_when_it_is_urgent_enough(
    shop: Run, tiny_bundle: Path, commands: Commands, advice: str, on_drift: str, trains: bool
) -> None:
    shop.night.step("train").state = "running"
    with_train(shop, bundle=str(tiny_bundle), every_days=1e6, on_drift=on_drift)
    current = read_pointer(shop.store)
    shutil.copytree(shop.home / "store/releases" / current.release, shop.home / "store/releases/release-00000000000a")
    write_pointer(shop.store, "release-00000000000a", "test")
    write_pointer(shop.store, current.release, "test")
    finding = {"name": "unseen_demand", "value": 0.16, "retrain": advice}
    commands.answers = {"releases drift": json.dumps({"advice": {"retrain": advice, "findings": [finding]}})}
    reason = steps.why_train(shop, tiny_bundle)
    assert reason == (f"drift says {advice} (unseen demand is 0.16)" if trains else None)


def test_a_first_bundle_that_is_not_there_is_said(run: Run) -> None:
    run.config = replace(run.config, train=TrainTable(bundle="bundles/none"))
    with pytest.raises(StepFailed, match=r"bundles/none is no bundle: correct `bundle` in \[train\]"):
        steps.train(run)


def evaluated(low: float, high: float) -> str:
    model = {"recall@10": 0.2, "minus popularity: recall@10.low": low, "minus popularity: recall@10.high": high}
    return json.dumps({"rankers": {"model": model}})


def test_a_bundle_that_is_worse_than_a_counter_is_not_used(shop: Run, tiny_bundle: Path, commands: Commands) -> None:
    shop.night.step("evaluate").state = "running"
    shop.night.bundle = str(tiny_bundle)
    assert steps.evaluate(shop).state == "skipped"
    shop.night.bundle = str(shop.folder / "bundle")
    commands.answers = {"evaluate": evaluated(-0.01, 0.02)}
    assert steps.evaluate(shop).message == "recall@10 0.2000, minus popularity -0.0100 to +0.0200"
    commands.answers = {"evaluate": evaluated(-0.05, -0.01)}
    with pytest.raises(StepFailed, match="worse than popularity"):
        steps.evaluate(shop)
    with_train(shop, bundle=str(tiny_bundle))
    ended = steps.evaluate(shop)
    assert (ended.state, shop.night.bundle) == ("refused", str(tiny_bundle)), "the night goes on with what is served"
    shop.night.bundle = str(shop.folder / "bundle")
    commands.answers = {"evaluate": json.dumps({"rankers": {"model": {"ndcg@10": 1}}})}
    with pytest.raises(StepFailed, match=r"no metric 'recall@10'; there are ndcg@10"):
        steps.evaluate(shop)


def test_the_release_is_written_aside_and_a_night_without_change_ends_there(shop: Run, commands: Commands) -> None:
    shop.night.step("embed").state = "running"
    shop.night.bundle = "b"
    commands.answers = {"embed": json.dumps({"release": "release-1", "changed": True, "items": 1234, "embedded": 7})}
    assert steps.embed(shop).message == "release-1: 1,234 items, 7 of them embedded anew"
    assert "--aside" in commands.lines[0]
    assert "--map" not in commands.lines[0]
    shop.night.release = None
    commands.answers = {"embed": json.dumps({"release": "release-1", "changed": False, "items": 1234, "embedded": 0})}
    assert [step(shop).state for step in (steps.embed, steps.gates, steps.publish, steps.canary, steps.promote_release)] == [
        "skipped"
    ] * 5


@pytest.mark.parametrize(
    ("said", "kind"),
    [("not published: recall100 is 0.900, at least 0.950", StepRefused), ("cannot read items.parquet", StepFailed)],
)
def test_a_release_that_breaks_a_limit_is_refused_and_an_accident_is_none(
    shop: Run, commands: Commands, said: str, kind: type[StepFailed]
) -> None:
    shop.night.step("embed").state = "running"
    shop.night.bundle = "b"
    commands.answers = {"embed": (2, said)}
    with pytest.raises(StepFailed, match=said) as raised:
        steps.embed(shop)
    assert (type(raised.value), raised.value.exit_status) == (kind, 2)


def test_the_map_is_drawn_where_the_configuration_asks_for_it(shop: Run, commands: Commands) -> None:
    shop.night.step("embed").state = "running"
    shop.config = replace(shop.config, release=replace(shop.config.release, map=True, map_colour="department"))
    shop.night.bundle = "b"
    commands.answers = {"embed": json.dumps({"release": "release-1", "changed": False, "items": 1, "embedded": 0})}
    steps.embed(shop)
    words = commands.lines[0]
    assert words[words.index("--map") :][1:3] == ["--map-colour", "department"]


def test_gates_are_read_back_from_the_store(shop: Run, commands: Commands) -> None:
    shop.night.step("gates").state = "running"
    shop.night.release = read_pointer(shop.store).release
    commands.answers = {"releases verify": ""}
    assert "gates passed, recall100 1.000, recent_coverage 1.000" in steps.gates(shop).message
    file = shop.home / "store/releases" / shop.night.release / "gates.json"
    content = json.loads(file.read_text())
    content["gates"][0]["passed"] = False
    file.write_text(json.dumps(content))
    with pytest.raises(StepRefused, match=f"broke {content['gates'][0]['name']}"):
        steps.gates(shop)


def test_histories_are_read_ahead_with_the_release_that_is_about_to_be_served(shop: Run, commands: Commands) -> None:
    shop.night.step("promote").state = "running"
    shop.night.release = read_pointer(shop.store).release
    shop.config = replace(shop.config, warm=WarmTable(history="sqlite:///h.db", directory="states"))
    commands.answers = {"users warm": "5 users are in the file, 9 events were read for that\n"}
    assert steps.promote_release(shop).message.startswith("5 users are in the file, 9 events were read for that; ")
    words = commands.lines[0]
    assert words[words.index("--release") + 1] == shop.night.release
    assert words[words.index("--directory") + 1] == str(shop.home / "states")
    commands.answers = {"users warm": (2, "the disk is full")}
    assert steps.promote_release(shop).message.startswith("no history was read ahead: ")


def test_old_nights_go_but_for_the_bundle_of_a_release(shop: Run, tiny_bundle: Path, commands: Commands) -> None:
    shop.night.step("clean").state = "running"
    for date in ("2026-05-01", "2026-05-02", "2026-05-30"):
        (shop.nights / date).mkdir()
    shutil.copytree(tiny_bundle, shop.nights / "2026-05-01" / "bundle")
    shop.config = replace(shop.config, retention=RetentionTable(nights=2, days=30, histories=("sqlite:///h.db",)))
    commands.answers = {"releases gc": "1 releases removed, 7 kept\n", "users expire": "2 users\n3 events\n"}
    ended = steps.clean(shop)
    assert ended.message == "1 releases removed, 7 kept, 1 old nights removed, 2 users; 3 events"
    assert sorted(path.name for path in shop.nights.iterdir()) == ["2026-05-01", "2026-05-30", "2026-05-31"]
    assert bundle_id(shop.nights / "2026-05-01" / "bundle")
    assert commands.lines[1][:4] == ["users", "expire", "--days", "30"]


def test_a_store_that_lost_what_was_promoted_is_not_begun_anew(run: Run) -> None:
    steps.require_store(run)
    (run.nights / "2026-05-30").mkdir()
    night = new_night("2026-05-30")
    night.step("promote").state = "done"
    write_night(night, run.nights / "2026-05-30")
    with pytest.raises(StoreError, match=r"has no current release.*is `store` in \[release\] right\?"):
        steps.require_store(run)


def test_signals_and_files_are_named_relative_to_the_configuration(run: Run) -> None:
    run.config = replace(run.config, data=DataTable(events="e", items="i", schema="s", signals="/data/signals"))
    named = steps.files(run)
    assert [str(word) for word in named] == [
        "--events",
        str(run.home / "e"),
        "--items",
        str(run.home / "i"),
        "--signals",
        "/data/signals",
    ]
    assert open_store(run.store).local == run.home / "store"
