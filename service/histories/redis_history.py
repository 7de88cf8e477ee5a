"""Histories in Redis, which several servers can share. Each call runs one Lua script per user, so that calls never interleave."""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, count
from typing import Any
from urllib.parse import quote

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.histories.breaker import Breaker, CircuitOpen
from service.histories.history import (
    KEPT_EVENT_IDS,
    KEPT_EVENTS,
    KEPT_ITEMS,
    FailureReason,
    HistoryUnavailable,
    PastItem,
    StoredEvent,
    UserHistory,
    in_time_order,
    shared,
)
from service.histories.redis_scripts import APPEND, DELETE, READ, TAG_BYTES
from twotower.data.features import DAY_MS
from twotower.data.item_statistics import HALF_LIVES_DAYS

PREFIX = "twotower2"  # of every key; the number changes with the format of the stored values
# In this order: epoch, n and two fields about the list; the last events, each after the tag of its append; event id -> seq;
# item id -> statistics; item id -> time of its last event.
_KEYS = ("head", "events", "ids", "items", "recent")
_MAX_CALLS = 64  # calls at once; further calls wait, so that the number of connections stays bounded
# A write may take this many times as long as a read: it may hold 1,024 events, and giving up means that they are sent again.
_WRITE_PATIENCE = 10.0

_event = msgspec.json.Decoder(StoredEvent)
_statistics = msgspec.msgpack.Decoder(tuple[int, int, int, float, float, float, frozenset[str], int])

_SILENCE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)
_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], FailureReason], ...] = (
    (CircuitOpen, "circuit_open"),
    (exceptions.OutOfMemoryError, "full"),
    (exceptions.ReadOnlyError, "read_only"),
    ((exceptions.TimeoutError, TimeoutError), "timeout"),
    ((exceptions.AuthenticationError, exceptions.NoPermissionError), "denied"),
    ((exceptions.ConnectionError, OSError), "unreachable"),
)
# Codes in the text of a Redis error. "unauthenticated" is there because Redis answers a long command before AUTH with a protocol
# error that has no code.
_CODES: dict[str, FailureReason] = {
    "OOM": "full",
    "READONLY": "read_only",
    "WRONGTYPE": "damaged",
    "NOAUTH": "denied",
    "NOPERM": "denied",
    "unauthenticated": "denied",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """One run of a script: the user whose history it is about, and the arguments after the question."""

    user_id: str
    arguments: tuple[Any, ...] = ()


class RedisHistory:
    """A HistoryStore in Redis. A user without new events for `ttl_days` is forgotten. It connects on the first call.

    A read takes at most `timeout_s`. User name, password, TLS and the file of its certificate authority are parts of the URL.
    """

    def __init__(self, url: str, timeout_s: float, ttl_days: float) -> None:
        # The client must not retry: an append whose answer was lost may have been stored, and only events with ids can be sent
        # again safely. It has no timeouts for the parts of a call either, because _run has one for each whole call.
        self._redis = Redis.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            protocol=2,
            driver_info=None,
        )
        # This only raises for unknown options in the URL; it does not connect.
        self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self.breaker = Breaker(*_SILENCE)
        self._numbers = count()
        self._places = asyncio.Semaphore(_MAX_CALLS)
        self._timeout_s = timeout_s
        bounds = (int(ttl_days * DAY_MS), KEPT_EVENTS, KEPT_EVENT_IDS, KEPT_ITEMS)
        self._settings: tuple[Any, ...] = (*bounds, DAY_MS, *HALF_LIVES_DAYS)

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        """One script per user, all in one round trip; each user's part is atomic."""
        by_user: dict[str, list[int]] = {}
        for index, event in enumerate(events):
            by_user.setdefault(event.user_id, []).append(index)
        settings = (secrets.token_hex(TAG_BYTES // 2), *self._settings)
        calls = [_Call(user, (*settings, *chain(*(_arguments(events[i]) for i in mine)))) for user, mine in by_user.items()]
        answers = await self._run(APPEND, calls, self._timeout_s * _WRITE_PATIENCE)
        stored = dict(zip(chain(*by_user.values()), chain(*(new for _, new in answers)), strict=True))
        return [bool(stored[i]) for i in range(len(events))]

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        """Read the events after `known`, or everything, in one round trip."""
        before = known or UserHistory()
        call = _Call(user_id, (before.epoch, before.num_events, before.tag))
        ((_, epoch, first, num_events, payloads, packed),) = await self._run(READ, [call], self._timeout_s)
        if known is not None and first == num_events == known.num_events:
            return known
        try:
            events = tuple(_event.decode(payload[TAG_BYTES:]) for payload in payloads)
            tag = payloads[-1][:TAG_BYTES].decode() if payloads else ""
            if first:
                return before.extended(events, tag)
            events = in_time_order(events)[-KEPT_EVENTS:]
            return UserHistory(events, num_events, _past_items(packed), epoch.decode(), tag)
        except ValueError as error:  # includes msgspec's errors and UnicodeDecodeError
            raise HistoryUnavailable(f"Redis holds data that cannot be read: {error}", "damaged") from error

    async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:  # noqa: ARG002 # the protocol's
        """None: Redis keeps its keys in no order, so a list would read all of them, on every node."""
        return None

    async def delete(self, user_id: str) -> int:
        """Delete all keys of the user in one round trip."""
        ((_, num_events),) = await self._run(DELETE, [_Call(user_id)], self._timeout_s * _WRITE_PATIENCE)
        return int(num_events)

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    async def _run(self, script: str, calls: Sequence[_Call], timeout_s: float) -> list[list[Any]]:
        """The script's answer to each call.

        HistoryUnavailable unless every call is answered, and every answer repeats the question of its call.
        """
        questions = [f"{next(self._numbers)} {call.user_id}".encode() for call in calls]
        try:
            with self.breaker.attempt():
                async with asyncio.timeout(timeout_s), self._places:
                    answers = await self._send(script, questions, calls)
        except (exceptions.RedisError, OSError, CircuitOpen) as error:
            raise HistoryUnavailable(f"Redis did not confirm: {type(error).__name__}", _reason(error)) from error
        if any(not isinstance(a, list) or a[:1] != [question] for a, question in zip(answers, questions, strict=True)):
            # A connection whose answers are one call behind would stay behind, so all connections are closed.
            await self._redis.connection_pool.disconnect()
            raise HistoryUnavailable("Redis sent the answer to a different call", "mixed_up")
        return answers

    async def _send(self, script: str, questions: Sequence[bytes], calls: Sequence[_Call]) -> list[Any]:
        commands = [
            ("EVALSHA", _sha(script), len(_KEYS), *_keys(call.user_id), question, *call.arguments)
            for question, call in zip(questions, calls, strict=True)
        ]
        answers = await self._execute(commands)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
        if unknown:  # Redis has restarted and does not have the script, so it did nothing for these calls
            await self._redis.script_load(script)
            for i, answer in zip(unknown, await self._execute([commands[i] for i in unknown]), strict=True):
                answers[i] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One answer or error per command, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers


@cache
def _sha(script: str) -> str:
    """The SHA-1 hash by which Redis names a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _reason(error: Exception) -> FailureReason:
    """The reason for metrics and logs. Errors inside a script have their code only in their text."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    text = str(error)
    return next((reason for code, reason in _CODES.items() if code in text), "refused")


def _keys(user_id: str) -> list[str]:
    """All keys of a user. The quoted id is a hash tag, so that a Redis cluster keeps them on one node."""
    return [f"{PREFIX}:{{{quote(user_id, safe='')}}}:{name}" for name in _KEYS]


def _arguments(event: StoredEvent) -> tuple[str, str, int, str, bytes]:
    """The five script arguments of an event. Ids are never empty, so an empty string means that there is none."""
    return event.event_id or "", event.item_id or "", event.time_ms, event.event_type, msgspec.json.encode(event)


def _past_items(packed: Sequence[bytes]) -> dict[str, PastItem]:
    """Past items by id, in the order of their first events, from a flat list of ids and statistics."""
    found = [(*_statistics.decode(statistics), item.decode()) for item, statistics in zip(packed[::2], packed[1::2], strict=True)]
    found.sort(key=lambda row: row[7])
    return {
        item: PastItem(n, first, last, (d7, d30, d90), shared(types)) for n, first, last, d7, d30, d90, types, _, item in found
    }
