"""The `twotower` command. A command is imported only when it is called, so that `--help` answers in 0.1 s."""

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from twotower.errors import TwoTowerError

PACKAGES = ("twotower", "training", "embedder_cache", "service")
STAGES = {"training": "train", "embedder_cache": "embed", "service": "serve"}  # package -> the extra with its libraries
COMPOSED = ("demo", "test")  # extras that hold those of every stage
# Python package -> the distribution that holds it, where their names differ.
DISTRIBUTIONS = {"faiss": "faiss-cpu", "opentelemetry": "opentelemetry-sdk", "umap": "umap-learn"}

# OpenMP threads (of torch and FAISS) that wait for work shall sleep. By default they spin, which takes the core from whatever
# else runs: beside one busy process on two cores, `twotower embed` took 29 s instead of 13, and alone 1.6 times the processor
# time. An operator's own setting counts. The libraries read this when they are loaded.
WAITING = {"OMP_WAIT_POLICY": "passive"}

_NO_MEMORY = ("allocate memory", "bad_alloc", "can't start new thread", "launch worker thread", "failed to map segment")


class Command(NamedTuple):
    """Where a command lives ("module:function") and what it does, in one line."""

    target: str
    summary: str


COMMANDS = {
    "prepare": Command(
        "training.commands.prepare_command:main", "your own CSV, JSON lines and others, or a public data set -> Parquet"
    ),
    "schema": Command("training.commands.schema_command:main", "`schema infer`: write a first schema.toml for your files"),
    "validate": Command(
        "training.commands.validate_command:main", "report what is wrong with events and items, and what it costs"
    ),
    "plan": Command("training.commands.plan_command:main", "sizes, data, batch, negatives and time for a budget of compute"),
    "train": Command("training.commands.train_command:main", "events and items -> bundle"),
    "evaluate": Command("training.commands.evaluate_command:main", "measure a bundle, or the counters it must beat"),
    "report": Command("training.commands.report_command:main", "one HTML page about a run: is it worth shipping, and its curves"),
    "sweep": Command("training.commands.sweep_command:main", "a grid of small training runs, to fit a scaling law to"),
    "fit": Command("training.commands.fit_command:main", "a scaling law from the runs of a sweep, with intervals"),
    "laws": Command("training.commands.laws_command:main", "every figure of a ledger of runs, drawn again"),
    "embed": Command("embedder_cache.commands.embed_command:main", "bundle and items -> release, published in a store"),
    "releases": Command(
        "embedder_cache.commands.releases_command:main", "list, verify, activate or roll back the releases of a store"
    ),
    "serve": Command("service.command:main", "answer /v1/recommend from a store's current release"),
    "users": Command("service.users_command:main", "send past events to a server, delete a user everywhere, forget what is old"),
    "keys": Command("service.keys_command:main", "`keys new`: make an API key for the server"),
    "nightly": Command("twotower.nightly.command:main", "all stages in one routine for every night, with a trial on the servers"),
    "demo": Command("twotower.demo:main", "all of the above on real purchases, in minutes"),
    "doctor": Command("twotower.doctor:main", "what works on this machine, and what to do about the rest"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for an error that the caller can fix, 130 when interrupted."""
    for variable, value in WAITING.items():
        os.environ.setdefault(variable, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an id may hold what the terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else argv
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(usage())  # noqa: T201
        return 0
    if name == "--version":
        print(f"twotower {installed_version()}")  # noqa: T201
        return 0
    try:
        return load(name)(rest)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (message := explanation(error, name)) is None:
            raise
        print(f"twotower: error: {message}", file=sys.stderr)  # noqa: T201
        return 2


def usage() -> str:
    """The text of `twotower --help`."""
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: twotower COMMAND [OPTIONS]",
            "",
            "events + items -> train -> bundle -> embed -> release -> serve -> POST /v1/recommend",
            "",
            *lines,
            "",
            "`twotower COMMAND --help` explains one command; `twotower --version` names the version.",
        ]
    )


def load(name: str) -> Callable[[list[str]], int]:
    """Import the function of a command; ValueError with the nearest name when there is no such command."""
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}.{suggestion(name)} `twotower --help` lists them.")
    module, function = COMMANDS[name].target.split(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return command


def suggestion(name: str) -> str:
    """ "Did you mean ...?" with the nearest command, or nothing when none is near."""
    import difflib

    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def explanation(error: Exception, name: str) -> str | None:
    """One line for the caller, or None when the error is a bug, whose traceback must be shown."""
    if isinstance(error, ModuleNotFoundError):
        return missing_module(error, name)
    if isinstance(error, TwoTowerError) or (isinstance(error, ValueError) and raised_by_us(error)):
        return str(error)
    if "out of memory. Tried to allocate" in str(error):  # torch, of a GPU
        return (
            f"`twotower {name}` needs more memory than the GPU has free ({str(error).split('. ')[0]}). Free memory on it, or use "
            f"--device cpu; nothing half done is kept."
        )
    if ran_out_of_memory(error):
        return (
            f"`twotower {name}` needs more memory or threads than it may have here ({error}). Close what else is running, or "
            f"raise the limit (`ulimit -v`, that of the container); nothing half done is kept."
        )
    return None


def ran_out_of_memory(error: Exception) -> bool:
    """Whether the system refused memory or a thread, whose stack is memory. Each library reports it in another way."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(words in str(error) for words in _NO_MEMORY)


def raised_by_us(error: Exception) -> bool:
    """Whether our own code raised it. Our ValueErrors are about the caller's input; one from a library is a bug."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return innermost is not None and package_of(innermost.tb_frame.f_globals["__name__"]) in (*PACKAGES, "__main__")


def missing_module(error: ModuleNotFoundError, name: str) -> str | None:
    """One line that says what to install; None when the missing module is ours and its package is here, which is a bug."""
    from importlib.util import find_spec

    package = package_of(error.name or "")
    if package not in PACKAGES:
        if extra := extra_of(package, STAGES.get(package_of(COMMANDS[name].target), "")):
            return f"`twotower {name}` needs {package}, which comes with the extra `{extra}`: pip install 'twotower[{extra}]'"
        return (
            f"`twotower {name}` needs the Python package {package!r}, which is not installed. "
            f"`twotower doctor` says what to install."
        )
    if find_spec(package) is None:
        return f"`twotower {name}` is not part of this installation. Run it where the package {package!r} is installed."
    return None


def extra_of(package: str, stage: str) -> str | None:
    """The extra that installs a Python package, preferably that of the stage; None when no extra does."""
    import re
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires("twotower") or []
    except PackageNotFoundError:
        return None
    wanted = DISTRIBUTIONS.get(package, package.replace("_", "-"))
    named = (re.match(r"""([\w.-]+).*\bextra == ["']([\w-]+)["']""", requirement) for requirement in requirements)
    extras = [found[2] for found in named if found and found[1].lower() == wanted.lower()]
    return min(extras, key=lambda extra: (extra != stage, extra not in STAGES.values(), extra in COMPOSED), default=None)


def package_of(module: str) -> str:
    """The first part of a dotted name."""
    return module.partition(".")[0]


def installed_version() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import version

    return version("twotower")


if __name__ == "__main__":
    raise SystemExit(main())
