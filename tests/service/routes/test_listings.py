"""What the server lists, as the client sees it."""

import shutil

from service.histories.history import StoredEvent, UserHistory
from service.routes.listings import describe, release_entries
from tests.service.conftest import TwoReleases
from twotower.artefacts.release import POINTER, POINTERS, release_path


def test_a_history_is_described_event_by_event_and_item_by_item() -> None:
    first = StoredEvent(user_id="ann", event_type="view", time_ms=5, item_id="sock", event_id="1", value=2.0)
    history = UserHistory().extended(
        [
            first,
            StoredEvent(user_id="ann", event_type="buy", time_ms=9, item_id="hat", position=3),
            StoredEvent(user_id="ann", event_type="buy", time_ms=7, item_id="sock", properties={"n": 1}),
        ]
    )
    told = describe("ann", history)
    assert (told.user_id, told.num_events, told.history_seq) == ("ann", 3, 3)
    events = [(e.event_type, e.timestamp, e.item_id) for e in told.events]
    assert events == [
        ("view", 5, "sock"),
        ("buy", 7, "sock"),
        ("buy", 9, "hat"),
    ]
    assert (told.events[0].event_id, told.events[0].value, told.events[2].position) == ("1", 2.0, 3)
    items = [(i.item_id, i.count, i.first, i.last, i.event_types) for i in told.items]
    assert items == [("hat", 1, 9, 9, ["buy"]), ("sock", 2, 5, 7, ["buy", "view"])]


def test_a_release_that_cannot_be_read_is_listed_with_its_problem_and_no_path_of_ours(two: TwoReleases) -> None:
    (release_path(two.store, two.first) / "manifest.json").write_text("{")
    damaged, sound = sorted(release_entries(two.store), key=lambda entry: entry.id != two.first)
    assert (damaged.id, damaged.current, damaged.problem) == (two.first, False, "it cannot be read")
    assert (sound.id, sound.current, sound.problem, sound.items) == (two.second, True, None, 200)


def test_in_a_store_without_a_pointer_no_release_is_the_current_one(two: TwoReleases) -> None:
    (two.store / POINTER).unlink()
    shutil.rmtree(two.store / POINTERS)
    assert [entry.current for entry in release_entries(two.store)] == [False, False]
