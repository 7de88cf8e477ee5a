"""How one server process is set up: from TWOTOWER_* variables and the command line, fixed for its life."""

import ipaddress
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen; a value out of range is refused when made."""

    model_config = SettingsConfigDict(env_prefix="TWOTOWER_", frozen=True)

    store: Path | str  # a directory, or s3://bucket/prefix
    verify_key: Path | None = None  # releases that this key did not sign are refused
    poll_s: float = Field(default=10.0, gt=0)  # between two looks at the store's pointer, a quarter more or less
    keep_old_s: float = Field(default=900.0, ge=0)  # the release before stays in memory so long: going back to it is instant
    variants: Path | None = None  # TOML: arms, shadow, canary
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0 takes any free port
    history: str = "sqlite:///history.db"  # sqlite:///relative, sqlite:////absolute, redis://..., rediss://...
    delta: str | None = None  # sqlite:///FILE; None is delta.db beside the histories of an SQLite file, else no /v1/items
    max_delta_items: int = Field(default=10_000, ge=1)  # scanned with every request; a change copies them
    keys: Path | None = None  # API keys; without them everyone who can reach the port may call everything
    insecure: bool = False
    admin_host: str = "127.0.0.1"
    admin_port: int | None = Field(default=None, ge=0, le=65535)  # None serves everything on one port
    workers: int = Field(default=1, ge=1, le=256)  # processes that share the port
    engine: Literal["thread", "process"] = "thread"  # in a process the model need not take turns with the event loop
    device: Literal["cpu", "cuda"] = "cpu"  # where an exact index is searched
    torch_threads: int = Field(default_factory=lambda given: share_of_cores(given["workers"]), ge=1)  # of each process
    max_body_bytes: int = Field(default=256 * 1024, ge=1)  # 1,024 inline events of usual size
    body_timeout_s: float = Field(default=10.0, gt=0)
    client_timeout_s: float = Field(default=10.0, gt=0)  # to send the head of a request, and to take what is written to it
    log_sample_rate: float = Field(default=0.01, ge=0, le=1)  # a busy server would write more log than answers
    log_hash_key: SecretStr | None = None  # None draws one at the start: hashes of two processes then differ
    otlp: str | None = None  # http(s)://HOST:PORT/v1/traces
    request_timeout_s: float = Field(default=10.0, gt=0)  # when the request itself names no timeout_ms
    max_queued: int = Field(default=1024, ge=1)
    max_wait_s: float = Field(default=1.0, gt=0)  # a request that would wait longer for the engine is refused at once
    batch_requests: int = Field(default=32, ge=1)  # that are answered together
    batch_tokens: int = Field(default=4096, ge=1)  # and the events the model reads for them
    verify_share: float = Field(default=0.001, ge=0, le=1)  # of answers from what is kept of a user, computed anew and compared
    user_cache_mb: int = Field(default=512, ge=0)  # for what the model keeps of users: about half a MB for each
    heartbeat_limit_s: float = Field(default=10.0, gt=0)
    history_cache_mb: int = Field(default=256, ge=0)  # some 1,000 users of 256 events each, or many more of a few
    redis_timeout_s: float = Field(default=0.05, gt=0)  # of a read: half of what a page has for its recommendations
    redis_ttl_days: float = Field(default=400.0, gt=0)  # a yearly habit is still there a year later
    drain_s: float = Field(default=0.0, ge=0)  # 0: who serves one machine alone gains nothing by waiting
    shutdown_timeout_s: int = Field(default=10, ge=0)

    @field_validator("store")
    @classmethod
    def _know_a_directory(cls, store: Path | str) -> Path | str:
        return store if str(store).startswith("s3://") else Path(store)

    @model_validator(mode="after")
    def _change_items_in_one_process(self) -> "Settings":
        if self.delta is not None and (self.workers > 1 or self.engine == "process"):
            raise ValueError(
                "a change of items is served by the process that took it: leave out --delta, or --workers and --engine"
            )
        return self

    @model_validator(mode="after")
    def _keep_ports_apart(self) -> "Settings":
        first, last = self.admin_port or 0, (self.admin_port or 0) + self.workers - 1
        # By the port a request came to is told whether it may see what is private.
        if first and (last > 65535 or first <= self.port <= last):
            raise ValueError(
                f"{self.workers} processes have the admin ports {first} to {last}: they must not pass 65535 nor hold --port; "
                f"choose another --admin-port"
            )
        return self

    @model_validator(mode="after")
    def _keep_to_loopback(self) -> "Settings":
        hosts = [self.host, *([] if self.admin_port is None else [self.admin_host])]
        if not self.insecure and not self.keys and (reachable := [host for host in hosts if not is_loopback(host)]):
            raise ValueError(
                f"refusing to listen on {reachable[0]}: anyone who can reach it could read and delete histories. Give API keys "
                f"(--keys FILE; `twotower keys new` makes them), listen on 127.0.0.1 behind a gateway that checks callers, "
                f"or add --insecure."
            )
        return self


def share_of_cores(num_workers: int) -> int:
    """Threads of each of so many processes; a process that is alone leaves one core to its event loop."""
    cores = os.cpu_count() or 1
    return max(1, cores // num_workers if num_workers > 1 else cores - 1)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
