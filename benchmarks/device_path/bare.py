"""Stands in for packages that a bare GPU machine lacks, so that the benchmark runs with torch, Triton and numpy alone.

Records (`msgspec.Struct`) become dataclasses. Of the other packages, which read files and draw tables, nothing is called while
measuring: a stand-in accepts whatever is done with it at import.
"""

import dataclasses
import sys
from collections.abc import Iterator
from copy import copy
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PACKAGES = ("msgspec", "pyarrow", "xxhash", "rich", "safetensors", "cryptography")


class _AnythingType(type):
    """The type of `Anything`, which does with the class what the class does with its instances."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __getitem__(cls, _: object) -> Any:
        return Anything

    def __or__(cls, _: object) -> Any:
        return Anything

    __ror__ = __or__


class Anything(metaclass=_AnythingType):
    """Takes any arguments, has any attribute, can be called and is empty."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __init_subclass__(cls, **_: object) -> None:
        """Accept any option."""

    def __getattr__(self, name: str) -> Any:
        """Itself again."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> Any:
        """Itself again."""
        return self

    def __iter__(self) -> Iterator[Any]:
        """Nothing."""
        return iter(())


class Record:
    """As far as our configurations use it, a `msgspec.Struct`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Make each subclass a dataclass."""
        super().__init_subclass__()
        for name, value in list(vars(cls).items()):
            if isinstance(value, dict | list | set) and name in cls.__annotations__:
                setattr(cls, name, dataclasses.field(default_factory=partial(copy, value)))
        dataclasses.dataclass(frozen=bool(options.get("frozen")), kw_only=bool(options.get("kw_only")))(cls)


class StandIn(ModuleType):
    """A module that has everything."""

    def __getattr__(self, name: str) -> Any:
        """Anything, but no name of Python's own."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class StandInFinder(MetaPathFinder, Loader):
    """Finds a stand-in for every module of some packages."""

    def __init__(self, packages: list[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """The stand-in of a module, which may hold further ones."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self._packages else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty stand-in, or one with the records of `msgspec`."""
        made = StandIn(spec.name)
        if spec.name == "msgspec":
            vars(made).update(Struct=Record, field=dataclasses.field)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def stand_in_for_missing() -> list[str]:
    """Put stand-ins in the place of packages that are not installed, before anything imports them. Returns their names."""
    missing = [name for name in PACKAGES if name not in sys.modules and not is_here(name)]
    if missing:
        sys.meta_path.insert(0, StandInFinder(missing))
    return missing


def is_here(name: str) -> bool:
    """Whether a package is installed."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
