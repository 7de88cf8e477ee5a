"""Lists for responses: a user's history, and the releases of the store."""

from pathlib import Path

from service.api import releases as release_schemas
from service.api import schemas
from service.histories.history import UserHistory
from service.rollout.trial import Outcomes, Trial
from twotower.artefacts.release import list_releases, read_info, read_pointer, read_release_manifest, release_path
from twotower.errors import ArtefactError, StoreError


def describe(user_id: str, history: UserHistory) -> schemas.UserResponse:
    """A user's history as a response."""
    events = [
        schemas.UserEvent(
            event_type=e.event_type,
            timestamp=e.time_ms,
            item_id=e.item_id,
            query=e.query,
            event_id=e.event_id,
            session_id=e.session_id,
            value=e.value,
            properties=e.properties,
            recommendation_id=e.recommendation_id,
            position=e.position,
        )
        for e in history.events
    ]
    items = [
        schemas.UserItem(
            item_id=i, count=past.count, first=past.first_ms, last=past.last_ms, event_types=sorted(past.event_types)
        )
        for i, past in sorted(history.items.items())
    ]
    return schemas.UserResponse(
        user_id=user_id, num_events=history.num_events, history_seq=history.seq, events=events, items=items
    )


def trial_report(trial: Trial) -> release_schemas.TrialReport:
    """A trial so far, as a response."""
    return release_schemas.TrialReport(
        release=trial.release,
        passed=trial.passed,
        percent=trial.plan.percent,
        seconds=trial.plan.seconds,
        new=_outcomes(trial.new),
        current=_outcomes(trial.old),
        overlap=sum(trial.overlaps) / len(trial.overlaps) if trial.overlaps else None,
    )


def _outcomes(outcomes: Outcomes) -> release_schemas.TrialOutcomes:
    return release_schemas.TrialOutcomes(
        requests=outcomes.num_requests,
        failed=outcomes.num_failed,
        degraded=outcomes.num_degraded,
        p99_ms=round(outcomes.p99_s * 1000, 3) if outcomes.num_requests else None,
    )


def release_entries(store: Path) -> list[release_schemas.ReleaseEntry]:
    """The releases of a store, or of the server's local copy of it. One that cannot be read is listed with its problem."""
    try:
        current = read_pointer(store).release
    except StoreError:
        current = ""
    entries = []
    for release in list_releases(store):
        path = release_path(store, release)
        try:
            read_release_manifest(path)
            info = read_info(path)
            entry = release_schemas.ReleaseEntry(
                id=release,
                current=release == current,
                bundle=info.bundle_id,
                vector_space_id=info.vector_space_id,
                items=info.num_items,
            )
        except ArtefactError:
            # The error's text is not shown, because it names a path of ours. The caller only needs to know that it is unusable.
            entry = release_schemas.ReleaseEntry(id=release, current=release == current, problem="it cannot be read")
        entries.append(entry)
    return entries
