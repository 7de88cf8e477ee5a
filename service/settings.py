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
    torch_threads: int = Field(default_factory=lambda: max(1, (os.cpu_count() or 1) - 1), ge=1)  # one core for the event loop
    max_body_bytes: int = Field(default=256 * 1024, ge=1)  # 1,024 inline events of usual size
    body_timeout_s: float = Field(default=10.0, gt=0)
    request_timeout_s: float = Field(default=10.0, gt=0)  # when the request itself names no timeout_ms
    max_queued: int = Field(default=1024, ge=1)
    max_wait_s: float = Field(default=1.0, gt=0)  # a request that would wait longer for the engine is refused at once
    batch_requests: int = Field(default=32, ge=1)  # that are answered together
    batch_tokens: int = Field(default=4096, ge=1)  # and the events the model reads for them
    user_cache_mb: int = Field(default=512, ge=0)  # for what the model keeps of users: about half a MB for each
    heartbeat_limit_s: float = Field(default=10.0, gt=0)
    redis_timeout_s: float = Field(default=0.5, gt=0)
    redis_ttl_days: float = Field(default=400.0, gt=0)  # a yearly habit is still there a year later
    shutdown_timeout_s: int = Field(default=10, ge=0)

    @field_validator("store")
    @classmethod
    def _know_a_directory(cls, store: Path | str) -> Path | str:
        return store if str(store).startswith("s3://") else Path(store)

    @model_validator(mode="after")
    def _keep_to_loopback(self) -> "Settings":
        if not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host}: anyone who can reach it could read and delete histories, and API keys "
                f"are not built yet. Listen on 127.0.0.1 behind a gateway that checks callers, or add --insecure."
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
