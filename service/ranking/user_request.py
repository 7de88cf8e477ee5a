"""A request together with the history of its user, and the input that the model gets from both.

M: past items
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.api.schemas import AboutUser, RecommendRequest
from service.histories.history import KEPT_EVENTS, PastItem, StoredEvent, UserHistory
from service.histories.intake import merge_inline
from service.release.loaded import LoadedRelease
from service.states.memory import UserKey

R_co = TypeVar("R_co", bound=AboutUser, covariant=True)

SEARCHES_IGNORED = "searches_ignored"  # the model of the release was not trained on searches
PAST_FORGOTTEN = "past_forgotten"  # of the history of a past moment, not everything is stored any more
ANSWER_COST = 32  # about how many events could be read in the time of the search and the rest of an answer
MAX_LEFT_OUT = 16  # past items that an explanation leaves out; each may cost as much as reading the history again


@dataclass(frozen=True, slots=True)
class UserRequest(Generic[R_co]):
    """One request, with the stored history of its user and the moment that it is about."""

    request: R_co
    stored: UserHistory
    now_ms: int

    @property
    def key(self) -> UserKey | None:
        """The key of the cached state that the request can use; see `key_of`."""
        return key_of(self.request)


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The model's input for a request, for one release."""

    history: UserHistory  # inline events included; those of a past moment only, if the request is about one
    known_events: tuple[StoredEvent, ...]  # the events of the window that the model reads
    now_ms: int
    target_event_type: str | None
    degraded: tuple[str, ...] = ()

    @property
    def num_ignored(self) -> int:
        """Events of the window that the model does not read."""
        return len(self.history.window) - len(self.known_events)

    def missing(self, release: LoadedRelease, named: Sequence[str]) -> list[str]:
        """Item ids of the window and of `named` that the catalogue does not know, each once."""
        in_window = [event.item_id for event in self.history.window if event.item_id] if self.num_ignored else []
        return [item_id for item_id in dict.fromkeys([*in_window, *named]) if item_id not in release.rows]

    def past_items(self, release: LoadedRelease) -> dict[int, PastItem]:
        """Statistics of the user's past items, by item row."""
        return {release.rows[item_id]: item for item_id, item in self.history.items.items() if item_id in release.rows}


def read_input(release: LoadedRelease, user_request: UserRequest[AboutUser], now_ms: int | None = None) -> ModelInput:
    """The model's input for a request; `now_ms` replaces the moment of the request."""
    request = user_request.request
    merged = merge_inline(user_request.stored, request)
    known = tuple(event for event in merged.history.window if release.reads(event))
    moment_ms = user_request.now_ms if now_ms is None else now_ms
    degraded = () if merged.is_exact else (PAST_FORGOTTEN,)
    ignored = len(known) < len(merged.history.window) and release.towers.config.model.query_field is None
    if ignored and any(event.query is not None for event in merged.history.window):
        degraded = (*degraded, SEARCHES_IGNORED)
    return ModelInput(merged.history, known, moment_ms, request.target_event_type, degraded)


def key_of(request: AboutUser) -> UserKey | None:
    """The user or session whose cached state a request can use.

    None if the request replaces the history or has no id, because then no later request could use the state.
    """
    if request.history_mode == "replace":
        return None
    if request.user_id is not None:
        return "user", request.user_id
    return ("session", request.session_id) if request.session_id else None


def cost_of(release: LoadedRelease, user_request: UserRequest[AboutUser], queued: Container[UserKey | None]) -> int:
    """The estimated cost of a request, in events that the model reads.

    Users in `queued` count as cached, because their histories are being read for an earlier request. May run on any thread.
    """
    request = user_request.request
    num_new = min(len(request.events), KEPT_EVENTS)
    num_all = min(len(user_request.stored.window) + num_new, KEPT_EVENTS)
    if is_free(request):
        return 0
    if is_patient(request):  # the history may be read again for each item that is left out
        return (1 + min(num_all, MAX_LEFT_OUT)) * (ANSWER_COST + num_all)
    key = user_request.key
    return ANSWER_COST + (num_new if key is not None and (key in queued or key in release.users) else num_all)


def cost_unread(release: LoadedRelease, request: AboutUser, queued: Container[UserKey | None]) -> int:
    """The estimated cost of a request before its history is read. A user without a cached state counts with a full window."""
    key = key_of(request)
    if is_free(request):
        return 0
    is_known = key is not None and (key in queued or key in release.users)
    return ANSWER_COST + (0 if is_known else KEPT_EVENTS)


def is_free(request: AboutUser) -> bool:
    """Whether the request needs no model at all."""
    return isinstance(request, RecommendRequest) and request.validate_only


def is_patient(request: AboutUser) -> bool:
    """Whether other requests go first. Explanations do, because each takes as long as many answers and can wait."""
    return isinstance(request, RecommendRequest) and request.explain and not request.validate_only
