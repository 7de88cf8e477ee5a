"""What is kept of users: how far it may be trusted, and who is forgotten first."""

import numpy as np
import pytest

from service.histories.history import PastItem, StoredEvent
from service.model.user_states import PastState, UserState, UserStates
from service.release.loaded import LoadedRelease


def event(number: int) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type="view", time_ms=number, item_id="tea")


@pytest.fixture
def state(release: LoadedRelease) -> UserState:
    return UserState(release.towers.config.model, release.no_past_parts)


def read(state: UserState, events: tuple[StoredEvent, ...]) -> None:
    """As if the model had read them."""
    state.memory.make_room(max(len(events), 1))
    state.events, state.memory.length = events, len(events)
    state.memory.last_D = state.memory.keys_LGCE[0, 0, 0]


ONE, TWO, THREE, OTHER = (event(n) for n in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("known", "asked", "kept"),
    [
        ((), (ONE, TWO), 0),
        ((ONE,), (ONE, TWO), 1),
        ((ONE, TWO), (ONE, TWO), 2),
        ((ONE, TWO), (TWO, THREE), 0),
        ((ONE, TWO, THREE), (ONE, OTHER), 1),
        ((ONE, TWO, THREE), (ONE, TWO), 1),  # the hidden state after TWO is gone: it is read once more
        ((ONE, TWO), (), 0),
    ],
)
def test_a_state_is_used_as_far_as_its_events_are_those_of_the_request(
    state: UserState, known: tuple[StoredEvent, ...], asked: tuple[StoredEvent, ...], kept: int
) -> None:
    read(state, known)
    assert state.keep(asked) == kept
    assert state.events == asked[:kept]


def test_past_items_go_on_or_are_begun_anew(release: LoadedRelease) -> None:
    past, none = PastState(release.no_past_parts), release.no_past_parts
    items = {"tea": PastItem.after(None, ONE), "unknown": PastItem.after(None, ONE)}
    assert past.beyond(items) == ["tea", "unknown"]
    past.update(items, [], np.zeros(0, np.int64), none)
    assert past.beyond(items) == []
    assert past.beyond(items | {"jam": PastItem.after(None, TWO)}) == ["jam"]
    assert past.beyond({"tea": items["tea"]}) is None
    assert past.beyond({"unknown": items["unknown"], "tea": items["tea"]}) is None


def test_who_came_once_is_forgotten_before_who_came_back(release: LoadedRelease) -> None:
    users, model = UserStates(), release.towers.config.model

    def visit(name: str) -> bool:
        known = users.take(("user", name))
        state = known or UserState(model, release.no_past_parts)
        read(state, (ONE,))
        size = state.num_bytes
        users.put(("user", name), state, 4 * size)
        return known is not None

    for name in ("regular", "regular", *(f"stranger {n}" for n in range(10))):
        visit(name)
    assert len(users) == 4
    assert visit("regular")
    assert not visit("stranger 0")
    assert visit("stranger 9")


def test_bytes_are_counted_and_given_back(release: LoadedRelease) -> None:
    users, state = UserStates(), UserState(release.towers.config.model, release.no_past_parts)
    read(state, (ONE,))
    users.put(("user", "ann"), state, 1 << 20)
    assert users.num_bytes == state.num_bytes > 0
    users.drop(("user", "ann"))
    assert (users.num_bytes, len(users)) == (0, 0)
