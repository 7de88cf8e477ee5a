"""nightly.toml: what a night works on, and within which limits."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from twotower.device_option import Wanted
from twotower.errors import DataError
from twotower.nightly.servers import DNS

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. Paths are relative to the file."""


class DataTable(_Table, frozen=True, kw_only=True):
    """The files of the shop, and the command that brings them up to date."""

    events: str
    items: str
    schema: str
    signals: str | None = None
    ingest: tuple[str, ...] = ()  # such as `twotower prepare files ...`, or a program of your own


class TrainTable(_Table, frozen=True, kw_only=True):
    """When to train again, and how."""

    recipe: str = "demo"
    minutes: Positive | None = None  # the recipe's own limit
    every_days: Positive = 7.0
    on_drift: Literal["soon", "now", "never"] = "now"  # from which advice of `releases drift` on
    rules: str | None = None  # of `releases drift`
    validation_days: Positive = 7.0  # the split moves with the data: the last days are the test part
    test_days: Positive = 7.0
    options: tuple[str, ...] = ()  # further options of `twotower train`
    bundle: str | None = None  # one that was trained before the first night


class EvaluateTable(_Table, frozen=True, kw_only=True):
    """What a new bundle must not be worse at than a counter."""

    protocol: Literal["next-basket", "next-event", "leave-one-out"] = "next-basket"
    metric: str = "recall@10"
    counter: Literal["popularity", "personal_frequency"] = "popularity"


class ReleaseTable(_Table, frozen=True, kw_only=True):
    """Where releases go, and what they are held to."""

    store: str
    gates: str | None = None
    index: str = "auto"
    delta: str | None = None
    sign: str | None = None
    verify_key: str | None = None
    metrics: str | None = None
    device: Wanted = "cpu"
    map: bool = False  # draw the map of the catalogue
    map_colour: str | None = None
    keep: Count = 7


class CanaryTable(_Table, frozen=True, kw_only=True):
    """Which servers judge a release, on what share of the users and for how long. Without servers there is no trial."""

    servers: tuple[str, ...] = ()  # addresses of their admin ports; `dns+http://NAME:PORT` is every address of a name
    key_file: str | None = None  # holds an API key with the scope `admin`
    percent: Annotated[float, Meta(gt=0, le=100)] = 5.0
    seconds: Positive = 1800.0
    min_requests: Annotated[int, Meta(ge=0)] = 0  # that all servers together must have tried it on
    patience_s: Positive = 300.0  # how long a server may be silent, or take to load a release


class WarmTable(_Table, frozen=True, kw_only=True):
    """Whose histories are read before a release becomes current, for servers on this machine."""

    history: str | None = None  # URL of the servers' histories
    directory: str | None = None  # TWOTOWER_USER_CACHE_DIR of the servers; without one, no history is read
    gb: Positive = 2.0  # TWOTOWER_USER_CACHE_GB of the servers
    days: Positive = 7.0  # users with an event in the last so many days


class RetentionTable(_Table, frozen=True, kw_only=True):
    """What is forgotten with age."""

    nights: Count = 30  # folders of nights that stay
    days: Positive | None = None  # events older than this are removed from `events` and from the histories
    histories: tuple[str, ...] = ()  # URLs


class Config(_Table, frozen=True, kw_only=True):
    """The whole file."""

    data: DataTable
    release: ReleaseTable
    nights: str = "nights"  # the folder that gets a folder for each night
    metrics: str | None = None  # the file for Prometheus' textfile collector
    train: TrainTable = TrainTable()
    evaluate: EvaluateTable = EvaluateTable()
    canary: CanaryTable = CanaryTable()
    warm: WarmTable = WarmTable()
    retention: RetentionTable = RetentionTable()


def load_config(path: Path) -> Config:
    """The configuration in a file; DataError, with the nearest known name, for one that is not known."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}. Name the nightly configuration with --config."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not TOML: {error}") from error
    _refuse_unknown(content, Config, path, "")
    try:
        config = msgspec.convert(content, Config)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}") from error
    _check_servers(config, path)
    if (config.warm.history is None) is not (config.warm.directory is None):
        raise DataError(f"{path}: [warm] needs both: history, and the directory of the servers' file of user states")
    if config.release.map_colour and not config.release.map:
        raise DataError(f"{path}: in [release], map_colour colours a map, and none is drawn: add map = true")
    return config


def _refuse_unknown(content: dict[str, Any], table: type[msgspec.Struct], path: Path, where: str) -> None:
    types = get_type_hints(table)
    for name, value in content.items():
        if name not in types:
            nearest = difflib.get_close_matches(name, types, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else f" Known are {', '.join(types)}."
            raise DataError(f"{path}: {where}there is no {name!r}.{hint}")
        if isinstance(value, dict) and isinstance(types[name], type) and issubclass(types[name], msgspec.Struct):
            _refuse_unknown(value, types[name], path, f"in [{name}], ")


def _check_servers(config: Config, path: Path) -> None:
    """Each server needs a scheme, and those behind a name are asked by HTTP."""
    for server in config.canary.servers:
        if server.startswith(f"{DNS}https://"):
            raise DataError(f"{path}: in [canary], {server!r} cannot be: certificates are for names, and dns+ asks addresses")
        if not server.removeprefix(DNS).startswith(("http://", "https://")):
            raise DataError(f"{path}: in [canary], the server {server!r} needs http:// or https:// before it")
