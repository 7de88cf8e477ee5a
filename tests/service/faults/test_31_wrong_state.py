"""Row 31: what is kept of a user is wrong: the check finds it, counts it, and the answer is right all the same."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from service.api.schemas import RecommendRequest
from service.histories.history import UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from service.states.memory import ArrayMemory
from service.states.user_state import UserState

NOW_MS = 1_746_057_600_000


def keys_of_another(state: UserState) -> None:
    assert isinstance(state.memory, ArrayMemory)
    assert state.memory.last_D is not None
    state.memory.last_D = state.memory.last_D[::-1].copy()


def past_items_of_another(state: UserState) -> None:
    state.past.statistics.count_M[:] += 5


def not_a_number(state: UserState) -> None:
    assert isinstance(state.memory, ArrayMemory)
    assert state.memory.last_D is not None
    state.memory.last_D = np.full_like(state.memory.last_D, np.nan)


@pytest.mark.parametrize("damage", [keys_of_another, past_items_of_another, not_a_number])
def test_a_damaged_state_is_found_counted_and_replaced(
    release: LoadedRelease, histories: dict[str, UserHistory], damage: Callable[[UserState], None]
) -> None:
    own_release, cache = replace(release), UserCache(1 << 28, verify_share=1.0)
    user, history = next(iter(histories.items()))
    asked = [UserRequest(RecommendRequest(user_id=user), history, NOW_MS)]
    (expected,) = recommend_many(own_release, asked, cache)
    state = own_release.users.take(("user", user))
    assert state is not None
    damage(state)
    cache.put(own_release.users, ("user", user), state)
    for _ in range(2):  # the state that replaced it is right
        (again,) = recommend_many(own_release, asked, cache)
        assert isinstance(again, Ranking)
        assert isinstance(expected, Ranking)
        assert [i.item_id for i in again.items] == [i.item_id for i in expected.items]
    assert (cache.counters.verified, cache.counters.failures) == (2, 1)
    assert cache.counters.max_error < 1e-5
