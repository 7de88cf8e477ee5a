"""What users turned to after they had been shown recommendations: an online measure of quality, by the release that answered.

An answer is remembered until its user asks again. If the user had an event with an item meanwhile, the first one is looked for
among the first items that were shown. So nothing has to be sent with events, it does not matter which server received them, and
the histories are read anyway. The memory is bounded: of many users only those with the smallest hashes are followed, so that
quick ones are not preferred to slow ones.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from service.api.schemas import AboutUser, Event, Recommended, RecommendRequest
from service.histories.history import StoredEvent
from service.ranking.user_request import UserRequest
from service.states.memory import UserKey
from service.telemetry.metrics import Metrics

MAX_SHOWN = 10  # first items of an answer that count as a hit
MAX_ANSWERS = 10_000  # remembered at most; about 10 MB
WITHIN_MS = 30 * 60_000  # a user who asks again later than this is not followed
ALL = 1 << 20  # so many hash values are told apart


class Shown(NamedTuple):
    """An answer that was shown, as far as it is remembered."""

    at_ms: int
    variant: str
    target_event_type: str | None
    item_ids: tuple[str, ...]


class FollowUps:
    """Follows users from one answer to the next. Runs on the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._shown: OrderedDict[UserKey, Shown] = OrderedDict()  # the oldest first
        self._share = ALL  # users whose hash is below are followed

    def note(self, variant: str, user_request: UserRequest[RecommendRequest], items: Sequence[Recommended]) -> None:
        """Count what the user turned to since the answer before, and remember this one."""
        request, key, now_ms = user_request.request, user_request.key, user_request.now_ms
        if key is None or request.timestamp is not None or request.page_token is not None or not items:
            return  # nobody to follow, a moment of the past, a further page of the same list, or an empty one
        self._make_room(now_ms)
        if hash(key) % ALL >= self._share:
            return
        before = self._shown.pop(key, None)
        if before is not None and now_ms - before.at_ms <= WITHIN_MS:
            item_id = turned_to(user_request, before)
            if item_id is not None:
                self._metrics.count_follow_up(before.variant, item_id in before.item_ids)
        ids = tuple([item.item_id for item in items[:MAX_SHOWN]])
        self._shown[key] = Shown(now_ms, variant, request.target_event_type, ids)

    def forget(self, user_id: str) -> None:
        """Forget a user who is deleted."""
        self._shown.pop(("user", user_id), None)

    def __len__(self) -> int:
        return len(self._shown)

    def _make_room(self, now_ms: int) -> None:
        """Forget what is too old. When there are still too many, follow half as many users; when there are few, twice as many."""
        shown = self._shown
        while shown and now_ms - next(iter(shown.values())).at_ms > WITHIN_MS:
            shown.popitem(last=False)
        if len(shown) >= MAX_ANSWERS:
            self._share //= 2
            for key in [key for key in shown if hash(key) % ALL >= self._share]:
                del shown[key]
        elif len(shown) < MAX_ANSWERS // 4:
            self._share = min(2 * self._share, ALL)


def turned_to(user_request: UserRequest[AboutUser], before: Shown) -> str | None:
    """The item of the first event after an answer, of the type that it was asked for; None without one."""
    first: tuple[int, str] | None = None
    events: list[StoredEvent | Event] = [*_after(user_request.stored.events, before.at_ms), *user_request.request.events]
    for event in events:
        wanted = before.target_event_type in (None, event.event_type) and event.item_id is not None
        if wanted and event.time_ms > before.at_ms and (first is None or event.time_ms < first[0]):
            assert event.item_id is not None
            first = event.time_ms, event.item_id
    return first[1] if first else None


def _after(events: Sequence[StoredEvent], moment_ms: int) -> Sequence[StoredEvent]:
    """The events after a moment, of a history in the order of time. Few are, so it is read from its end."""
    num_later = 0
    for event in reversed(events):
        if event.time_ms <= moment_ms:
            break
        num_later += 1
    return events[len(events) - num_later :]
