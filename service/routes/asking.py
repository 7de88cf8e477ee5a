"""The steps of every route that uses the model: choose the release, take a place, read the history, call the model, count."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.api.schemas import AboutUser, to_ms
from service.engine.thread import Place
from service.histories.history import UserHistory
from service.histories.reading import FoundHistory
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.rollout.served import Chosen
from service.rollout.trial import watch
from service.routes.context import Context, now_ms
from service.telemetry.request_record import RECORD

R = TypeVar("R", bound=AboutUser)
T = TypeVar("T")

Call = Callable[[LoadedRelease, UserRequest[R], Place], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class ModelAnswer(Generic[R, T]):
    """The result of a call of the model, and facts about how it was made."""

    result: T
    user_request: UserRequest[R]
    chosen: Chosen
    history_seq: int | None  # number of stored events; None when no history was read
    degraded: list[str]


async def ask_model(context: Context, request: R, started_s: float, call: Call[R, T]) -> ModelAnswer[R, T]:
    """The result of a model call for one request, which arrived at `started_s` (monotonic); ApiError when it fails.

    The release is chosen once, at the beginning, and used to the end, also if releases are swapped meanwhile.
    """
    return await ask_release(context, context.served.choose(request), request, started_s, call)


async def ask_release(
    context: Context, chosen: Chosen, request: R, started_s: float, call: Call[R, T], known: FoundHistory | None = None
) -> ModelAnswer[R, T]:
    """As `ask_model`, for a release that was chosen already. `known` is what was read of the user's history, if it was."""
    if record := RECORD.get():
        record.user_id, record.release = request.user_id, chosen.release.id
    deadline_s = context.deadlines.of(started_s, request.timeout_ms)
    with context.admission.take(chosen.release, request, deadline_s) as place:
        stored, degraded = known or await context.histories.read(request, deadline_s)
        moment_ms = now_ms() if request.timestamp is None else to_ms(request.timestamp)
        user_request = UserRequest(request, stored or UserHistory(), moment_ms)
        with watch(chosen.variant, chosen.trial, context.metrics):
            result = await call(chosen.release, user_request, place)
    return ModelAnswer(result, user_request, chosen, stored.seq if stored else None, degraded)
