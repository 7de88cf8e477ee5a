"""API keys: which routes a client may call, and how often. The file is read again when it changes; a bad file is ignored."""

import asyncio
import hashlib
import hmac
import logging
import math
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from service.api.errors import ApiError
from service.http.messages import Headers
from service.telemetry.metrics import Metrics
from twotower.errors import DataError

Scope = Literal["recommend", "events:write", "users:delete", "admin", "metrics"]
POLL_S = 1.0
_log = logging.getLogger(__name__)
_NOBODY = "0" * 64  # the hash to compare with for an unknown id, so that its refusal takes as long as that of a wrong secret


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the file of keys. A client that replaces its key has two entries for a while."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # of the secret, which is long and random, so a fast hash is enough
    scopes: frozenset[Scope]
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    rate: Annotated[float, Meta(gt=0)] | None = None  # requests per second of this key at one process; None: no limit
    burst: Annotated[float, Meta(ge=1)] | None = None  # requests at once; None: as many as `rate` allows in a second


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: Annotated[list[ApiKey], Meta(min_length=1)]


@dataclass(slots=True)
class _Holder:
    """A key and the state of its rate limit, a token bucket."""

    key: ApiKey
    tokens: float
    filled_s: float  # when tokens were last added, by time.monotonic
    used_s: float = 0.0  # when the key was last used, by time.time; 0 means never

    def take(self, now_s: float) -> float:
        """Take one token out of the bucket. Returns 0, or the seconds until there is a token to take."""
        if self.key.rate is None:
            return 0.0
        burst = burst_of(self.key)
        self.tokens = min(burst, self.tokens + (now_s - self.filled_s) * self.key.rate)
        self.filled_s = now_s
        if self.tokens < 1:
            return (1 - self.tokens) / self.key.rate
        self.tokens -= 1
        return 0.0


class KeyRing:
    """The keys that are valid now. Making it raises DataError when the file cannot be used."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path, self._metrics = path, metrics
        self._file_state = _state(path)
        self._problem = ""
        self._holders = _held(read_keys(path), {})

    def identify(self, headers: Headers) -> ApiKey:
        """The key of a request; ApiError unauthorized when it is missing, unknown or expired."""
        key_id, _, secret = _credential(headers).partition(".")
        holder = self._holders.get(key_id)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        is_right = hmac.compare_digest(digest, holder.key.sha256 if holder else _NOBODY)
        if holder is None or not is_right or (holder.key.expires and holder.key.expires <= datetime.now(UTC)):
            raise ApiError("unauthorized", "send a valid API key: Authorization: Bearer KEY, or X-API-Key: KEY")
        return holder.key

    def permit(self, key: ApiKey, scope: str | None) -> None:
        """ApiError forbidden when the key lacks the scope, quota_exceeded when it has used up its rate."""
        if scope not in key.scopes:
            raise ApiError("forbidden", f"this needs the scope {scope}, which this key lacks" if scope else "no key allows this")
        holder = self._holders[key.id]
        if wait_s := holder.take(time.monotonic()):
            message = f"this key may send {key.rate:g} requests per second; try again later"
            raise ApiError("quota_exceeded", message, retry_after_s=math.ceil(wait_s))
        holder.used_s = time.time()

    def has_scope(self, key_id: str, scope: Scope) -> bool:
        """Whether a key that was identified has a further scope."""
        holder = self._holders.get(key_id)
        return holder is not None and scope in holder.key.scopes

    def charge(self, key_id: str, num_requests: int) -> None:
        """Count requests beyond the one that `permit` counted.

        The bucket may go below zero; the next requests are refused until it has filled up again.
        """
        holder = self._holders.get(key_id)
        if holder and holder.key.rate is not None:  # otherwise a limit that the key gets later would count all requests before it
            holder.tokens -= num_requests

    async def watch(self) -> None:
        """Look for changes of the file every second, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the file if it changed. A file that cannot be used is ignored, logged once, and tried again the next time."""
        for key_id, holder in self._holders.items():
            if holder.used_s:
                self._metrics.key_used.labels(key_id).set(holder.used_s)
        try:
            state = await asyncio.to_thread(_state, self._path)
            if state == self._file_state and not self._problem:
                return
            keys = await asyncio.to_thread(read_keys, self._path)
        except DataError as error:
            self._metrics.key_reloads.labels("refused").inc()
            if str(error) != self._problem:
                _log.error("%s. The keys that were valid before stay valid.", error)
            self._problem = str(error)
            return
        for gone in self._holders.keys() - {key.id for key in keys}:
            if self._holders[gone].used_s:
                self._metrics.key_used.remove(gone)
        self._holders, self._file_state, self._problem = _held(keys, self._holders), state, ""
        self._metrics.key_reloads.labels("accepted").inc()


def read_keys(path: Path) -> list[ApiKey]:
    """The entries of a file of keys; DataError that says what is wrong with the file."""
    try:
        keys = msgspec.convert(tomllib.loads(path.read_text()), _KeyFile).keys
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except (ValueError, msgspec.ValidationError) as error:  # a ValueError also for a file that is not TOML or not UTF-8
        raise _unusable(path, str(error)) from error
    if twice := {k.id for k in keys if sum(k.id == other.id for other in keys) > 1}:
        raise _unusable(path, f"the id {min(twice)} is given twice")
    return keys


def burst_of(key: ApiKey) -> float:
    """Requests that a key may send at once after it was unused for a while."""
    return key.burst or max(key.rate or 1, 1)


def _held(keys: list[ApiKey], before: dict[str, _Holder]) -> dict[str, _Holder]:
    now_s = time.monotonic()
    fresh = {key.id: _Holder(key, burst_of(key), now_s) for key in keys}
    for key_id in fresh.keys() & before.keys():  # reading the file again does not refill the buckets
        old = before[key_id]
        fresh[key_id] = _Holder(fresh[key_id].key, old.tokens, old.filled_s, old.used_s)
    return fresh


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unusable(path: Path, why: str) -> DataError:
    return DataError(f"the API keys in {path} cannot be used: {why}")


def _credential(headers: Headers) -> str:
    given = headers.get(b"authorization", b"")
    if given[:7].lower() == b"bearer ":
        return given[7:].strip().decode("latin-1")
    return headers.get(b"x-api-key", b"").decode("latin-1")
