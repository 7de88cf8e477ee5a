"""Reads histories ahead of the users' next visits into the file of user states, so that no request waits for that."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from service.api.schemas import RecommendRequest
from service.histories.history import UserHistory
from service.ranking.queries import move_on, new_state, queries_from, restored
from service.ranking.user_request import UserRequest, key_of, read_input
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from service.states.memory import ArrayMemory
from twotower.errors import EnvironmentProblem

USERS_AT_ONCE = 32  # their events are read in common products
_WAIT_S = 60.0  # for the disk


@dataclass(slots=True)
class Warmed:
    """How many users the file knows now, and how many events were read for that."""

    num_users: int = 0
    num_events: int = 0


def room_for(release: LoadedRelease, max_bytes: int) -> int:
    """How many users with a full window a file of so many bytes has room for, about."""
    full = ArrayMemory(release.towers.config.model)
    full.make_room(release.towers.config.model.window)
    return max_bytes // full.num_bytes


def warm(
    release: LoadedRelease,
    histories: Iterable[tuple[str, UserHistory]],
    now_ms: int,
    cache: UserCache,
    on_users: Callable[[int], None],
) -> Warmed:
    """Keep the states of users in the cache's file; what it has of them already is not read again.

    The file forgets first who comes first here. EnvironmentProblem when it takes nothing more.
    """
    warmed, remaining = Warmed(), iter(histories)
    while part := list(islice(remaining, USERS_AT_ONCE)):
        _warm_some(release, part, now_ms, cache, warmed)
        on_users(len(part))
    return warmed


def _warm_some(
    release: LoadedRelease, users: Sequence[tuple[str, UserHistory]], now_ms: int, cache: UserCache, warmed: Warmed
) -> None:
    assert cache.file is not None
    keys, states, inputs = [], [], []
    for user_id, history in users:
        user_request = UserRequest(RecommendRequest(user_id=user_id), history, now_ms)
        key, model_input = key_of(user_request.request), read_input(release, user_request)
        assert key is not None, "the request has an id"
        if not model_input.known_events:
            continue
        state = restored(release, key, model_input, cache) or new_state(release)
        state.keep(model_input.known_events)
        move_on(release, state, cache)
        warmed.num_events += len(model_input.known_events) - state.memory.length
        keys.append(key)
        states.append(state)
        inputs.append(model_input)
    if states:
        queries_from(release, states, inputs)
    for key, state in zip(keys, states, strict=True):
        if (kept := state.in_file) is None or not cache.file.keep(key, kept, release.state_space, _WAIT_S):
            raise EnvironmentProblem("the file of user states takes nothing more: is its disk full or very slow?")
    warmed.num_users += len(states)
