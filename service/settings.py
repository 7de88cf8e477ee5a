"""How one server process is set up: from TWOTOWER_* variables and the command line, fixed for its life."""

import ipaddress
import os
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen; a value out of range is refused when made."""

    model_config = SettingsConfigDict(env_prefix="TWOTOWER_", frozen=True)

    store: Path | str  # a directory, or s3://bucket/prefix
    verify_key: Path | None = None  # releases that this key did not sign are refused
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0 takes any free port
    history: str = "sqlite:///history.db"  # sqlite:///relative, sqlite:////absolute, redis://..., rediss://...
    delta: str | None = None  # sqlite:///FILE; None is delta.db beside the histories of an SQLite file, else no /v1/items
    max_delta_items: int = Field(default=10_000, ge=1)  # scanned with every request; a change copies them
    insecure: bool = False
    workers: int = Field(default=1, ge=1, le=256)  # processes that share the port
    torch_threads: int = Field(default_factory=lambda given: share_of_cores(given["workers"]), ge=1)  # of each process
    max_body_bytes: int = Field(default=256 * 1024, ge=1)  # 1,024 inline events of usual size
    body_timeout_s: float = Field(default=10.0, gt=0)
    request_timeout_s: float = Field(default=10.0, gt=0)  # when the request itself names no timeout_ms
    max_queued: int = Field(default=1024, ge=1)  # at 10 ms a request that is a wait of 10 s: what lies beyond would time out
    heartbeat_limit_s: float = Field(default=10.0, gt=0)
    redis_timeout_s: float = Field(default=0.5, gt=0)
    redis_ttl_days: float = Field(default=400.0, gt=0)  # a yearly habit is still there a year later
    drain_s: float = Field(default=0.0, ge=0)  # 0: who serves one machine alone gains nothing by waiting
    shutdown_timeout_s: int = Field(default=10, ge=0)

    @field_validator("store")
    @classmethod
    def _know_a_directory(cls, store: Path | str) -> Path | str:
        return store if str(store).startswith("s3://") else Path(store)

    @model_validator(mode="after")
    def _change_items_in_one_process(self) -> "Settings":
        if self.delta is not None and self.workers > 1:
            raise ValueError("a change of items is served by the process that took it: leave out --delta, or --workers")
        return self

    @model_validator(mode="after")
    def _keep_to_loopback(self) -> "Settings":
        if not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host}: anyone who can reach it could read and delete histories, and API keys "
                f"are not built yet. Listen on 127.0.0.1 behind a gateway that checks callers, or add --insecure."
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
