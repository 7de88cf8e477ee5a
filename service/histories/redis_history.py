"""Histories in Redis: for several servers. Each call is one Lua script per user, so that no two servers interleave."""

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
    HistoryUnavailable,
    PastItem,
    Reason,
    StoredEvent,
    UserHistory,
    shared,
)
from service.histories.redis_scripts import APPEND, DELETE, READ, TAG_BYTES
from twotower.data.features import DAY_MS
from twotower.data.item_statistics import HALF_LIVES_DAYS

PREFIX = "twotower2"  # of every key; the number changes with what is stored under it
# epoch and n; last events, each behind the tag of its append; event id -> seq; item id -> statistics; item id -> time of its last
_KEYS = ("head", "events", "ids", "items", "recent")
_MAX_CALLS = 64  # at once: more wait, rather than open ever more connections
_WRITE_PATIENCE = 10.0  # a write given up on is sent again, and may hold 1,024 events: it waits so many times as long as a read

_event = msgspec.json.Decoder(StoredEvent)
_statistics = msgspec.msgpack.Decoder(tuple[int, int, int, float, float, float, frozenset[str], int])

_SILENCE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)
_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Reason], ...] = (
    (CircuitOpen, "circuit_open"),
    (exceptions.OutOfMemoryError, "full"),
    (exceptions.ReadOnlyError, "read_only"),
    ((exceptions.TimeoutError, TimeoutError), "timeout"),
    ((exceptions.AuthenticationError, exceptions.NoPermissionError), "denied"),
    ((exceptions.ConnectionError, OSError), "unreachable"),
)
# What stands in an error of Redis; a long command before any AUTH is a protocol error to it.
_CODES: dict[str, Reason] = {
    "OOM": "full",
    "READONLY": "read_only",
    "WRONGTYPE": "damaged",
    "NOAUTH": "denied",
    "NOPERM": "denied",
    "unauthenticated": "denied",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """One run of a script: whose history, and the arguments after the question."""

    user_id: str
    arguments: tuple[Any, ...] = ()


class RedisHistory:
    """A HistoryStore in Redis; a user not heard of for `ttl_days` is forgotten. It connects on the first call.

    A read takes `timeout_s` at most. User name and password, TLS and its CA file are parts of the URL.
    """

    def __init__(self, url: str, timeout_s: float, ttl_days: float) -> None:
        # No retries by the client: an append whose answer was lost may have happened, and only the caller has event ids.
        # No limits of its own for parts of a call: there is one around each whole call, in _run.
        self._redis = Redis.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            protocol=2,
            driver_info=None,
        )
        # Refuses options of the URL that there are not; it does not connect.
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
        """One round trip that brings what is new since `known`, or everything."""
        held = known or UserHistory()
        call = _Call(user_id, (held.epoch, held.num_events, held.tag))
        ((_, epoch, first, num_events, payloads, packed),) = await self._run(READ, [call], self._timeout_s)
        if known is not None and first == num_events == known.num_events:
            return known
        try:
            events = [_event.decode(payload[TAG_BYTES:]) for payload in payloads]
            tag = payloads[-1][:TAG_BYTES].decode() if payloads else ""
            if first:
                return held.extended(events, tag)
            return UserHistory(tuple(events), num_events, _past_items(packed), epoch.decode(), tag)
        except ValueError as error:  # msgspec's and UnicodeDecodeError are such
            raise HistoryUnavailable(f"Redis holds what cannot be read: {error}", "damaged") from error

    async def delete(self, user_id: str) -> int:
        """One round trip."""
        ((_, num_events),) = await self._run(DELETE, [_Call(user_id)], self._timeout_s * _WRITE_PATIENCE)
        return int(num_events)

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    async def _run(self, script: str, calls: Sequence[_Call], timeout_s: float) -> list[list[Any]]:
        """What the script answers to each call; HistoryUnavailable unless all are answered, each with its own question."""
        questions = [f"{next(self._numbers)} {call.user_id}".encode() for call in calls]
        try:
            with self.breaker.attempt():
                async with asyncio.timeout(timeout_s), self._places:
                    answers = await self._send(script, questions, calls)
        except (exceptions.RedisError, OSError, CircuitOpen) as error:
            raise HistoryUnavailable(f"Redis did not confirm: {type(error).__name__}", _reason(error)) from error
        if any(not isinstance(a, list) or a[:1] != [question] for a, question in zip(answers, questions, strict=True)):
            # A connection that is one answer behind would stay so.
            await self._redis.connection_pool.disconnect()
            raise HistoryUnavailable("Redis answered another question than the one asked", "mixed_up")
        return answers

    async def _send(self, script: str, questions: Sequence[bytes], calls: Sequence[_Call]) -> list[Any]:
        commands = [
            ("EVALSHA", _sha(script), len(_KEYS), *_keys(call.user_id), question, *call.arguments)
            for question, call in zip(questions, calls, strict=True)
        ]
        answers = await self._execute(commands)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
        if unknown:  # a new Redis, or one that forgot: what it did not know it did not do
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
    """Redis' name for a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _reason(error: Exception) -> Reason:
    """What to tell an operator; errors of a script carry the code in their text."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    text = str(error)
    return next((reason for code, reason in _CODES.items() if code in text), "refused")


def _keys(user_id: str) -> list[str]:
    """All keys of a user; the quoted id is a hash tag, so that a cluster keeps them on one node."""
    return [f"{PREFIX}:{{{quote(user_id, safe='')}}}:{name}" for name in _KEYS]


def _arguments(event: StoredEvent) -> tuple[str, str, int, str, bytes]:
    """Ids are never empty, so an empty string can stand for none."""
    return event.event_id or "", event.item_id or "", event.time_ms, event.event_type, msgspec.json.encode(event)


def _past_items(packed: Sequence[bytes]) -> dict[str, PastItem]:
    """Items by id from a flat list of id and statistics, in the order they were first met."""
    found = [(*_statistics.decode(statistics), item.decode()) for item, statistics in zip(packed[::2], packed[1::2], strict=True)]
    found.sort(key=lambda row: row[7])
    return {
        item: PastItem(n, first, last, (d7, d30, d90), shared(types)) for n, first, last, d7, d30, d90, types, _, item in found
    }
