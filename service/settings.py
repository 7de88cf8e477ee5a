"""The settings of one server process, read once at its start from the command line and TWOTOWER_* variables."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from twotower.device_option import Wanted

_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")  # in lower case and without a path, as browsers send it


class Settings(BaseSettings):
    """All settings, frozen. Making them raises ValidationError for a value out of range."""

    model_config = SettingsConfigDict(env_prefix="TWOTOWER_", frozen=True)

    store: Path | str  # a directory, or s3://bucket/prefix
    verify_key: Path | None = None  # releases that this key did not sign are refused
    poll_s: float = Field(default=10.0, gt=0)  # between two reads of the store's pointer; varied by up to a quarter
    keep_old_s: float = Field(default=900.0, ge=0)  # the previous release stays in memory so long, for an instant rollback
    variants: Path | None = None  # a TOML file that defines arms, shadow and canary
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0 takes any free port
    history: str = "sqlite:///history.db"  # sqlite:///relative, sqlite:////absolute, redis://..., rediss://...
    delta: str | None = None  # sqlite:///FILE; None means delta.db beside an SQLite history file, and no item changes otherwise
    max_delta_items: int = Field(default=10_000, ge=1)  # every request scans the changed items, and every change copies them
    keys: Path | None = None  # file of API keys; without it, everyone who can reach the port may call every route
    insecure: bool = False  # allows an address that other machines can reach, without API keys
    admin_host: str = "127.0.0.1"
    admin_port: int | None = Field(default=None, ge=0, le=65535)  # None: private routes are served on `port` too
    workers: int = Field(default=1, ge=1, le=256)  # processes that share the port
    engine: Literal["thread", "process"] = "thread"  # in a process of its own, the model does not compete with the event loop
    device: Wanted = "cpu"  # where the engine computes
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"  # of the model's products over many events on a CPU; auto measures
    torch_threads: int = Field(default_factory=lambda given: share_of_cores(given["workers"]), ge=1)  # of each process
    max_body_bytes: int = Field(default=4 << 20, ge=1)  # 1,024 events of 4 kB each, or two lists of 10,000 ids of any length
    body_timeout_s: float = Field(default=10.0, gt=0)  # for the whole body of a request to arrive
    keep_alive_s: float = Field(default=75.0, gt=0)  # for an idle connection; longer than a balancer keeps it (60 s is usual)
    cors_origins: str | None = None  # whose pages may call from browsers, separated by commas; `*` is everyone
    client_timeout_s: float = Field(default=10.0, gt=0)  # for a client to send a request's head, and to read what we write
    behaviorgpt: bool = False  # answers the Python client `behaviorgpt` too: service.behaviorgpt
    behaviorgpt_catalog: str = Field(default="retail_catalog", min_length=1)  # the id of the served catalogue for that client
    behaviorgpt_dir: str = Field(default="catalogues", min_length=1)  # directory of the catalogues that it uploads
    behaviorgpt_events: str | None = None  # our event types for its event types: viewItem=view,order=purchase
    behaviorgpt_max_upload_mb: int = Field(default=2048, ge=1)  # of one file; it is streamed to the disk
    behaviorgpt_max_catalogs: int = Field(default=8, ge=1)  # uploaded ones; each that is asked for is kept in memory
    log_sample_rate: float = Field(default=0.01, ge=0, le=1)  # of ordinary requests, to log and trace; all would be too many
    log_hash_key: SecretStr | None = None  # None: drawn at the start, so the hashes of two servers differ
    otlp: str | None = None  # http(s)://HOST:PORT/v1/traces
    request_timeout_s: float = Field(default=10.0, gt=0)  # for a request without a timeout_ms of its own
    max_queued: int = Field(default=1024, ge=1)  # requests that may wait for the engine; a further one is refused
    max_wait_s: float = Field(default=1.0, gt=0)  # a request that would wait longer for the engine is refused at once
    batch_requests: int = Field(default=32, ge=1)  # the most requests in one batch
    batch_tokens: int = Field(default=4096, ge=1)  # the most events in one batch; each request counts as 32 more
    verify_share: float = Field(default=0.001, ge=0, le=1)  # share of cached user states that are recomputed and compared
    page_pool_mb: int = Field(default=2048, ge=1)  # on a GPU, for the keys and values of histories: a quarter of a MB or so each
    user_cache_mb: int = Field(default=512, ge=0)  # for cached user states: about half a MB for each user
    user_cache_dir: Path | None = None  # of a file for the states that memory has no room for, and for the next start
    user_cache_gb: float = Field(default=2.0, gt=0)  # of that file: some 4,500 users
    heartbeat_limit_s: float = Field(default=10.0, gt=0)  # an engine that has not moved for longer counts as stuck
    history_cache_mb: int = Field(default=256, ge=0)  # room for about 1,000 users with 256 events each
    redis_timeout_s: float = Field(default=0.05, gt=0)  # of a read: half the time a web page has for its recommendations
    redis_ttl_days: float = Field(default=400.0, gt=0)  # over a year, so that a yearly habit is not forgotten
    drain_s: float = Field(default=0.0, ge=0)  # to keep serving after SIGTERM, until load balancers notice; 0 if there are none
    shutdown_timeout_s: int = Field(default=10, ge=0)  # for requests that are still being answered at the end

    @field_validator("store")
    @classmethod
    def _make_path_of_directory(cls, store: Path | str) -> Path | str:
        return store if str(store).startswith("s3://") else Path(store)

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str | None) -> str | None:
        for origin in filter(None, map(str.strip, (value or "").split(","))):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: write scheme, host and, if it is not the usual, port, as in https://shop.example"
                )
        return value

    @model_validator(mode="after")
    def _change_items_in_one_process(self) -> "Settings":
        if self.delta is not None and (self.workers > 1 or self.engine == "process"):
            raise ValueError(
                "only the process that receives an item change serves it: leave out --delta, or --workers and --engine"
            )
        return self

    @model_validator(mode="after")
    def _keep_ports_apart(self) -> "Settings":
        first, last = self.admin_port or 0, (self.admin_port or 0) + self.workers - 1
        # A request may use private routes if it came to the admin port, so no worker may share a port with --port.
        if first and (last > 65535 or first <= self.port <= last):
            raise ValueError(
                f"{self.workers} processes would use the admin ports {first} to {last}. These must not exceed 65535 and must "
                f"not include --port; choose another --admin-port."
            )
        return self

    @model_validator(mode="after")
    def _keep_to_loopback(self) -> "Settings":
        hosts = [self.host, *([] if self.admin_port is None else [self.admin_host])]
        if not self.insecure and not self.keys and (reachable := [host for host in hosts if not is_loopback(host)]):
            raise ValueError(
                f"refusing to listen on {reachable[0]}: anyone who can reach it could read and delete histories. Use API keys "
                f"(--keys FILE; `twotower keys new` makes them), listen on 127.0.0.1 behind a gateway that checks callers, "
                f"or add --insecure."
            )
        return self


def share_of_cores(num_workers: int) -> int:
    """Threads for each of `num_workers` processes. A single process leaves one core to its event loop."""
    cores = os.cpu_count() or 1
    return max(1, cores // num_workers if num_workers > 1 else cores - 1)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost counts as reachable by others."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
