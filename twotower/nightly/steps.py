"""The steps of a night, in order. Each may be done again: it finds what is done, and goes on from there."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from twotower.artefacts.release import GATES, NOT_PUBLISHED, current_release, newest, open_store, read_pointer
from twotower.artefacts.store import RELEASES
from twotower.data.events import stream_events
from twotower.data.schema import Schema, Split, dump_schema, load_schema
from twotower.errors import StoreError, TwoTowerError
from twotower.nightly.bundles import BUNDLE, bundle_id, bundle_of, served_bundle, trained_on
from twotower.nightly.canary import promote, propose, try_on_servers
from twotower.nightly.run import Ended, Run, StepFailed, StepRefused
from twotower.nightly.status import nights, read_night

SCHEMA, TRAINING = "schema.toml", "training"
LEVELS = ("no", "unknown", "soon", "now")  # of `releases drift`
NOTHING_NEW = Ended("nothing had changed since the current release was built", "skipped")
TOLD_GATES = ("holdout_recall10", "holdout_ndcg10", "recall100", "recent_coverage")


def ingest(run: Run) -> Ended:
    """Bring events and items up to date with the operator's command, and see that they are there."""
    data = run.config.data
    if data.ingest:
        run.run(data.ingest)
    given = (data.events, data.items, data.schema, data.signals)
    for name in filter(None, given):
        if not run.path(name).exists():
            raise StepFailed(f"{run.path(name)} is not there")
    return Ended("brought up to date" if data.ingest else "no command: the files are as they are found")


def validate(run: Run) -> Ended:
    """Refuse data that training would refuse, before anything is built of it. The split moves to the last events."""
    schema = run.folder / SCHEMA
    schema.write_text(dump_schema(with_moved_split(run)))
    try:
        said = run.twotower("validate", *files(run), "--schema", schema, "--hide-users")
    except StepFailed as error:
        told = (run.folder / "validate.log").read_text(errors="replace").splitlines()
        first = next((line.removeprefix("error").strip() for line in reversed(told) if line.startswith("error")), "")
        raise StepFailed(f"{error}{': ' if first else ''}{first}", error.exit_status) from error
    warnings = sum(line.startswith("warning") for line in said.splitlines())
    return Ended(f"{said.splitlines()[-1]}{f'; warnings in validate.log: {warnings}' if warnings else ''}")


def train(run: Run) -> Ended:
    """Train a bundle when the served one is old or drift says so; otherwise keep it."""
    config = run.config.train
    new, store = run.folder / BUNDLE, open_store(run.store)
    kept = served_bundle(store, run.nights, run.path(config.bundle) if config.bundle else None)
    if kept is None and config.bundle and current_release(store) is None:
        kept = run.path(config.bundle)
        if bundle_id(kept) is None:
            raise StepFailed(f"{kept} is no bundle: correct `bundle` in [train], or leave it out to train one")
    reason = why_train(run, kept)
    if reason is None:
        assert kept is not None
        run.night.bundle = str(kept)
        return Ended(f"{bundle_id(kept)} of {trained_on(kept)} stays", "skipped")
    if bundle_id(new) is None:
        limit = ("--minutes", config.minutes) if config.minutes else ()
        out = ("--out", new, "--run", run.folder / TRAINING, "--resume")
        run.twotower("train", config.recipe, *files(run), "--schema", run.folder / SCHEMA, *out, *limit, *config.options)
    shutil.rmtree(run.folder / TRAINING, ignore_errors=True)  # also what a run left that was killed after its training
    run.night.bundle = str(new)
    return Ended(f"{bundle_id(new)} trained: {reason}")


def why_train(run: Run, kept: Path | None) -> str | None:
    """Why to train tonight; None to keep the bundle."""
    config, store = run.config.train, open_store(run.store)
    if kept is None:
        return "no bundle yet" if current_release(store) is None else "the bundle of the current release is not here"
    age_days = (date.fromisoformat(run.night.date) - trained_on(kept)).days
    if age_days >= config.every_days:
        return f"the last one is {age_days} days old"
    pointer = newest(store).pointer
    if config.on_drift == "never" or pointer is None or pointer.previous is None:
        return None
    if bundle_of(store, pointer.release) != bundle_id(kept):
        return None
    rules = ("--rules", run.path(config.rules)) if config.rules else ()
    drift = json.loads(run.twotower("releases", "drift", "--store", run.store, "--bundle", kept, *rules, "--json"))
    advice = drift["advice"]
    if LEVELS.index(advice["retrain"]) < LEVELS.index(config.on_drift):
        return None
    urgent = max(advice["findings"], key=lambda finding: LEVELS.index(finding["retrain"]))
    return f"drift says {advice['retrain']} ({urgent['name'].replace('_', ' ')} is {urgent['value']:.2f})"


def with_moved_split(run: Run) -> Schema:
    """The schema, with a split whose last part ends with the last event."""
    schema = load_schema(run.path(run.config.data.schema))
    events = run.path(run.config.data.events)
    last_ms = max(int(batch.times_ms_E.max()) for batch in stream_events(events, schema.events))
    test_from = datetime.fromtimestamp(last_ms // 1000, UTC) - timedelta(days=run.config.train.test_days)
    validation_from = test_from - timedelta(days=run.config.train.validation_days)
    return msgspec.structs.replace(schema, split=Split(validation_from=validation_from, test_from=test_from))


def evaluate(run: Run) -> Ended:
    """Refuse a new bundle that is worse than a counter. What is served has a bundle: the night goes on with that one."""
    new, config = run.folder / BUNDLE, run.config.evaluate
    if run.night.bundle != str(new):
        return Ended("no new bundle", "skipped")
    said = run.twotower("evaluate", "--bundle", new, *files(run), "--protocol", config.protocol, "--json")
    model = json.loads(said)["rankers"]["model"]
    names = [f"minus {config.counter}: {config.metric}.{end}" for end in ("low", "high")]
    if config.metric not in model or names[1] not in model:
        raise StepFailed(f"[evaluate] has no metric {config.metric!r}; there are {', '.join(n for n in model if ':' not in n)}")
    low, high = (model[name] for name in names)
    told = f"{config.metric} {model[config.metric]:.4f}, minus {config.counter} {low:+.4f} to {high:+.4f}"
    if high >= 0:
        return Ended(told)
    first = run.path(run.config.train.bundle) if run.config.train.bundle else None
    kept = next((path for path in [served_bundle(open_store(run.store), run.nights, first)] if path != new), None)
    if kept is None:
        raise StepRefused(f"the new bundle is worse than {config.counter}: {told}")
    run.night.bundle = str(kept)
    return Ended(f"the new bundle is worse than {config.counter} and not used: {told}", "refused")


def embed(run: Run) -> Ended:
    """Embed what changed, hold the release to its gates, and write it into the store beside the current one."""
    config = run.config.release
    options = {"--gates": config.gates, "--sign": config.sign, "--metrics": config.metrics}
    given = [word for option, name in options.items() if name for word in (option, run.path(name))]
    given += ["--delta", config.delta] if config.delta else []
    given += ["--map"] if config.map else []
    given += ["--map-colour", config.map_colour] if config.map and config.map_colour else []
    assert run.night.bundle is not None
    bundle = ("--bundle", run.night.bundle, "--store", run.store, "--index", config.index, "--device", config.device)
    try:
        said = json.loads(run.twotower("embed", *bundle, *files(run), *given, "--aside", "--json"))
    except StepFailed as error:
        if str(error).startswith(NOT_PUBLISHED):
            raise StepRefused(str(error), error.exit_status) from error
        raise
    if not said["changed"]:
        return NOTHING_NEW
    run.night.release = said["release"]
    return Ended(f"{said['release']}: {said['items']:,} items, {said['embedded']:,} of them embedded anew")


def gates(run: Run) -> Ended:
    """Read the release back from the store, hash all of it, and see that every gate was passed."""
    if (release := run.night.release) is None:
        return NOTHING_NEW
    key = ("--verify-key", run.path(run.config.release.verify_key)) if run.config.release.verify_key else ()
    run.twotower("releases", "verify", release, "--store", run.store, *key)
    report = json.loads(open_store(run.store).read(f"{RELEASES}/{release}/{GATES}") or b"{}")
    broken = [gate["name"] for gate in report["gates"] if not gate["passed"]]
    if broken:
        raise StepRefused(f"{release} broke {', '.join(broken)}")
    return Ended(f"{len(report['gates'])} gates passed{''.join(_told(report['gates']))}")


def _told(found: list[dict[str, Any]]) -> Iterator[str]:
    by_name = {gate["name"]: gate["value"] for gate in found}
    return (f", {name} {by_name[name]:.3f}" for name in TOLD_GATES if name in by_name)


def publish(run: Run) -> Ended:
    """Propose the release to the servers, which try it beside the current one."""
    if run.night.release is None:
        return NOTHING_NEW
    if not run.config.canary.servers or current_release(open_store(run.store)) is None:
        return Ended("no server to try it on: it is in the store, and becomes current when it is promoted", "skipped")
    return Ended(propose(run, run.night.release))


def canary(run: Run) -> Ended:
    """Wait for the verdict of the servers. A release that breaks a limit on any of them is withdrawn from all."""
    if run.night.release is None:
        return NOTHING_NEW
    if not run.config.canary.servers or current_release(open_store(run.store)) is None:
        return Ended("no server to try it on", "skipped")
    return Ended(try_on_servers(run, run.night.release))


def promote_release(run: Run) -> Ended:
    """Make the release current, and see that the servers serve it; go back when one cannot."""
    if run.night.release is None:
        return NOTHING_NEW
    told = [*warm(run, run.night.release), promote(run, run.night.release)]
    return Ended("; ".join(told))


def warm(run: Run, release: str) -> Iterator[str]:
    """Read histories of recent users with a release that the servers will soon serve. When it fails, they do it themselves."""
    config, verify_key = run.config.warm, run.config.release.verify_key
    if config.directory is None:
        return
    key = ("--verify-key", run.path(verify_key)) if verify_key else ()
    file = ("--history", config.history, "--directory", run.path(config.directory), "--gb", config.gb, "--days", config.days)
    try:
        said = run.twotower("users", "warm", "--store", run.store, "--release", release, *key, *file)
        yield said.strip().replace("\n", "; ")
    except StepFailed as error:
        yield f"no history was read ahead: {error}"


def clean(run: Run) -> Ended:
    """Remove old releases and old nights, and what is older than the retention allows."""
    config = run.config.retention
    told = [run.twotower("releases", "gc", "--store", run.store, "--keep", run.config.release.keep).strip()]
    told += [f"{remove_nights(run, config.nights)} old nights removed"]
    if config.days:
        histories = [word for url in config.histories for word in ("--history", url)]
        columns = ("--events", run.path(run.config.data.events), "--schema", run.path(run.config.data.schema))
        told.append(run.twotower("users", "expire", "--days", config.days, *columns, *histories).strip().replace("\n", "; "))
    return Ended(", ".join(told))


def remove_nights(run: Run, keep: int) -> int:
    """Remove the folders of all nights but the newest, and but those whose bundle made a release of the store."""
    store = open_store(run.store)
    needed = {bundle_of(store, release) for release in store.releases()}
    old = [night for night in list(nights(run.nights))[keep:] if bundle_id(night / BUNDLE) not in (needed - {None})]
    for night in old:
        shutil.rmtree(night)
    return len(old)


def files(run: Run) -> list[object]:
    """The options that name the shop's files."""
    data = run.config.data
    signals = ["--signals", run.path(data.signals)] if data.signals else []
    return ["--events", run.path(data.events), "--items", run.path(data.items), *signals]


def require_store(run: Run) -> None:
    """StoreError when an earlier night promoted a release to a store that has none now: the address may be wrong."""
    before = next((night.name for night in nights(run.nights) if night.name < run.night.date), None)
    if before is None:
        return
    try:
        read_pointer(run.store)
    except StoreError as error:
        if any(_promoted(night) for night in nights(run.nights)):
            raise StoreError(f"{error} Earlier nights promoted releases to it: is `store` in [release] right?") from error
    except TwoTowerError as error:
        raise StoreError(str(error)) from error


def _promoted(night: Path) -> bool:
    status = read_night(night)
    return status is not None and status.step("promote").state == "done"


ACTIONS: dict[str, Callable[[Run], Ended]] = {
    "ingest": ingest,
    "validate": validate,
    "train": train,
    "evaluate": evaluate,
    "embed": embed,
    "gates": gates,
    "publish": publish,
    "canary": canary,
    "promote": promote_release,
    "clean": clean,
}
