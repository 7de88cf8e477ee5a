"""Histories in Redis: for several servers. One Lua script appends, so that no two servers can interleave on one user."""

from collections.abc import Sequence
from itertools import chain
from typing import Any
from urllib.parse import quote

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.history import KEPT_EVENT_IDS, KEPT_EVENTS, KEPT_ITEMS, HistoryUnavailable, OwnItem, StoredEvent, UserHistory
from twotower.repeat import HALF_LIVES_DAYS

PREFIX = "twotower"
# n; last events; event id -> seq; item id -> statistics; item id -> time of its last event
_KEYS = ("n", "events", "ids", "items", "recent")
_event = msgspec.json.Decoder(StoredEvent)
_statistics = msgspec.msgpack.Decoder(tuple[int, int, int, float, float, float, frozenset[str]])

# The arithmetic is twotower.repeat.add_event; the contract tests hold the two together.
_APPEND = """
local ttl_ms, kept_events, kept_ids, kept_items = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local half_lives_ms = {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])}
local n = tonumber(redis.call('GET', KEYS[1]) or '0')

local function count_item(item, time_ms, event_type)
  local packed = redis.call('HGET', KEYS[4], item)
  local own = packed and cmsgpack.unpack(packed) or {0, time_ms, time_ms, 0, 0, 0, {}}
  local newest = math.max(own[3], time_ms)
  for d = 1, 3 do
    local fade = 0.5 ^ ((newest - own[3]) / half_lives_ms[d])
    own[3 + d] = own[3 + d] * fade + 0.5 ^ ((newest - time_ms) / half_lives_ms[d])
  end
  own[1], own[2], own[3] = own[1] + 1, math.min(own[2], time_ms), newest
  local known = false
  for _, t in ipairs(own[7]) do known = known or t == event_type end
  if not known then table.insert(own[7], event_type) end
  redis.call('HSET', KEYS[4], item, cmsgpack.pack(own))
  redis.call('ZADD', KEYS[5], newest, item)
end

local stored = {}
for i = 8, #ARGV, 5 do
  local event_id, item = ARGV[i], ARGV[i + 1]
  if event_id ~= '' and redis.call('ZSCORE', KEYS[3], event_id) then
    table.insert(stored, 0)
  else
    n = n + 1
    redis.call('RPUSH', KEYS[2], ARGV[i + 4])
    if event_id ~= '' then redis.call('ZADD', KEYS[3], n, event_id) end
    if item ~= '' then count_item(item, tonumber(ARGV[i + 2]), ARGV[i + 3]) end
    table.insert(stored, 1)
  end
end

redis.call('SET', KEYS[1], string.format('%.0f', n))
redis.call('LTRIM', KEYS[2], -kept_events, -1)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', n - kept_ids)
local extra = redis.call('ZCARD', KEYS[5]) - kept_items
if extra > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[5], extra)
  for i = 1, #oldest, 2 do redis.call('HDEL', KEYS[4], oldest[i]) end
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
return stored
"""
_DAY_MS = 86_400_000


class RedisHistory:
    """A HistoryStore in Redis; a user not heard of for `ttl_days` is forgotten. It connects on the first call."""

    def __init__(self, url: str, timeout_s: float, ttl_days: float) -> None:
        # No retries by the client: an append whose answer was lost may have happened, and only the caller has event ids.
        self._redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), retry_on_error=[]
        )
        self._append = self._redis.register_script(_APPEND)
        bounds = (int(ttl_days * _DAY_MS), KEPT_EVENTS, KEPT_EVENT_IDS, KEPT_ITEMS)
        self._settings: tuple[Any, ...] = (*bounds, *(h * _DAY_MS for h in HALF_LIVES_DAYS))

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        """One script per user, all in one pipeline; each user's part is atomic."""
        by_user: dict[str, list[int]] = {}
        for index, event in enumerate(events):
            by_user.setdefault(event.user_id, []).append(index)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for user, indices in by_user.items():
                    arguments: list[Any] = [a for i in indices for a in _arguments(events[i])]
                    await self._append(keys=_keys(user), args=[*self._settings, *arguments], client=pipe)
                answers = await pipe.execute()
        except (RedisError, OSError) as error:
            raise HistoryUnavailable(f"Redis did not confirm: {type(error).__name__}") from error
        stored = dict(zip(chain.from_iterable(by_user.values()), chain.from_iterable(answers), strict=True))
        return [bool(stored[i]) for i in range(len(events))]

    async def read(self, user_id: str) -> UserHistory:
        """One transaction, one round trip."""
        n, events, _, items, _ = _keys(user_id)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.get(n)
                pipe.lrange(events, 0, -1)
                pipe.hgetall(items)
                count, payloads, packed = await pipe.execute()
            own = {item.decode(): _own_item(value) for item, value in packed.items()}
            return UserHistory(tuple(map(_event.decode, payloads)), int(count or 0), own)
        except (RedisError, OSError, msgspec.DecodeError, ValueError) as error:
            raise HistoryUnavailable(f"Redis could not be read: {type(error).__name__}") from error

    async def delete(self, user_id: str) -> int:
        """One transaction, one round trip."""
        keys = _keys(user_id)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.get(keys[0])
                pipe.delete(*keys)
                count, _ = await pipe.execute()
            return int(count or 0)
        except (RedisError, OSError, ValueError) as error:
            raise HistoryUnavailable(f"Redis did not confirm: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()


def _keys(user_id: str) -> list[str]:
    """All keys of a user; the quoted id is a hash tag, so that a cluster keeps them on one node."""
    return [f"{PREFIX}:{{{quote(user_id, safe='')}}}:{name}" for name in _KEYS]


def _arguments(event: StoredEvent) -> tuple[str, str, int, str, bytes]:
    """Ids are never empty, so an empty string can stand for none."""
    return event.event_id or "", event.item_id or "", event.time_ms, event.event_type, msgspec.json.encode(event)


def _own_item(packed: bytes) -> OwnItem:
    count, first_ms, last_ms, week, month, quarter, types = _statistics.decode(packed)
    return OwnItem(count, first_ms, last_ms, (week, month, quarter), types)
