"""How one server process is set up: from TWOTOWER_* variables and the command line, fixed for its life."""

import ipaddress
import os
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
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
    keys: Path | None = None  # API keys; without them everyone who can reach the port may call everything
    insecure: bool = False
    admin_host: str = "127.0.0.1"
    admin_port: int | None = Field(default=None, ge=0, le=65535)  # None serves everything on one port
    torch_threads: int = Field(default_factory=lambda: max(1, (os.cpu_count() or 1) - 1), ge=1)  # one core for the event loop
    max_body_bytes: int = Field(default=256 * 1024, ge=1)  # 1,024 inline events of usual size
    body_timeout_s: float = Field(default=10.0, gt=0)
    client_timeout_s: float = Field(default=10.0, gt=0)  # to send the head of a request, and to take what is written to it
    log_sample_rate: float = Field(default=0.01, ge=0, le=1)  # a busy server would write more log than answers
    log_hash_key: SecretStr | None = None  # None draws one at the start: hashes of two processes then differ
    otlp: str | None = None  # http(s)://HOST:PORT/v1/traces
    request_timeout_s: float = Field(default=10.0, gt=0)  # when the request itself names no timeout_ms
    max_queued: int = Field(default=1024, ge=1)  # at 10 ms a request that is a wait of 10 s: what lies beyond would time out
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
        hosts = [self.host, *([] if self.admin_port is None else [self.admin_host])]
        if not self.insecure and not self.keys and (reachable := [host for host in hosts if not is_loopback(host)]):
            raise ValueError(
                f"refusing to listen on {reachable[0]}: anyone who can reach it could read and delete histories. Give API keys "
                f"(--keys FILE; `twotower keys new` makes them), listen on 127.0.0.1 behind a gateway that checks callers, "
                f"or add --insecure."
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
