"""`twotower doctor`: reports what works on this machine, and what to do about the rest.

Every native library is tried in a subprocess, because a broken build may kill the process that imports it. It also keeps faiss
and redis out of this package's imports, which the import contracts forbid.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from twotower.memory import available_bytes
from twotower.terminal import TextTable, console, styled

PROBE_TIMEOUT_S = 120
DEMO_MEMORY_GIB = 4.0  # the most memory that `twotower demo` takes
DEMANDING = frozenset({"embedder_cache", "service"})  # packages that need FAISS; the second also a client of Redis

_TORCH = """
import torch
torch.ones(8, 8) @ torch.ones(8, 8)
from twotower.device import why_no_gpu
gpu, why = None, why_no_gpu()
if not why:
    properties = torch.cuda.get_device_properties(0)
    gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "gpu": gpu, "why": why}))
"""
_BF16 = """
import torch
torch.set_num_threads(1)
from service.model.cpu_dtype import MIN_SPEEDUP, has_bf16, measured_speedup
print(json.dumps({"needed": MIN_SPEEDUP, "speedup": measured_speedup() if has_bf16() else None}))
"""
_FAISS = """
import faiss, numpy
index = faiss.IndexFlatIP(4)
index.add(numpy.eye(4, dtype=numpy.float32))
found = index.search(numpy.array([[0, 0, 1, 0]], dtype=numpy.float32), 1)[1][0, 0]
assert found == 2, f"the nearest of four unit vectors came out as {found}"
gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
print(json.dumps({"version": faiss.__version__, "gpus": gpus}))
"""
_VERSION = """
import importlib
print(json.dumps({"version": importlib.import_module(sys.stdin.read()).__version__}))
"""
_SQLITE = """
import pathlib, sqlite3, tempfile
with tempfile.TemporaryDirectory() as directory:
    database = sqlite3.connect(pathlib.Path(directory) / "history.db")
    mode = database.execute("PRAGMA journal_mode = wal").fetchone()[0]
    database.close()
assert mode == "wal", f"no write-ahead log, only {mode}"
print(json.dumps({"version": sqlite3.sqlite_version}))
"""
_REDIS_PING = """
import redis
client = redis.Redis.from_url(sys.stdin.read(), socket_timeout=5, socket_connect_timeout=5)
client.ping()
print(json.dumps({"version": client.info("server")["redis_version"]}))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `advice` is empty when there is nothing to do."""

    what: str
    state: str
    works: bool
    required: bool = True
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a subprocess found: the facts it printed, or why it could not."""

    facts: dict[str, object]
    failure: str = ""


RunProbe = Callable[[str, str], Probe]


def main(argv: list[str]) -> int:
    """Say what works on this machine and what to do about the rest; 0 when everything required works, else 1."""
    parser = argparse.ArgumentParser(prog="twotower doctor", description=main.__doc__)
    parser.add_argument("--redis", metavar="URL", help="also require that this Redis answers (redis://host:6379/0)")
    arguments = parser.parse_args(argv)
    checks = examine(run_probe, arguments.redis, installed_packages())
    console().print(report(checks))
    return 0 if all(check.works for check in checks if check.required) else 1


def installed_packages() -> frozenset[str]:
    """Which of the packages in DEMANDING are installed; an image has at most one."""
    return frozenset(name for name in DEMANDING if find_spec(name) is not None)


def examine(probe: RunProbe, redis_url: str | None, packages: frozenset[str] = DEMANDING) -> list[Check]:
    """All checks, in the order of the report. FAISS and the Redis client are required if one of `packages` needs them."""
    torch = probe(_TORCH, "")
    return [
        python_check(),
        library_check("pyarrow", probe, "pyarrow"),
        library_check("numpy", probe, "numpy"),
        torch_check(torch),
        cores_check(torch, usable_cores()),
        *([bf16_check(probe(_BF16, ""))] if "service" in packages else []),
        memory_check(available_bytes()),
        faiss_check(probe(_FAISS, ""), required=bool(packages)),
        sqlite_check(probe(_SQLITE, "")),
        library_check("redis", probe, "'twotower[serve]'", required="service" in packages),
        redis_server_check(shutil.which("redis-server")) if redis_url is None else redis_url_check(probe(_REDIS_PING, redis_url)),
        gpu_check(torch),
        triton_check(torch, probe(_VERSION, "triton")),
    ]


def run_probe(code: str, given: str) -> Probe:
    """Run `code` in a fresh interpreter with `given` on its stdin (not in its arguments: a URL may hold a password)."""
    try:
        finished = subprocess.run(
            [sys.executable, "-c", "import json, sys\n" + code],
            input=given,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe({}, f"did not answer within {PROBE_TIMEOUT_S} s")
    if finished.returncode < 0:
        return Probe({}, f"killed by signal {-finished.returncode}")
    if finished.returncode:
        last_line = (finished.stderr.strip().splitlines() or ["failed without a word"])[-1]
        return Probe({}, re.sub(r"^[\w.]+: ", "", last_line))
    return Probe(json.loads(finished.stdout.splitlines()[-1]))


def python_check() -> Check:
    """The version of this interpreter."""
    works = sys.version_info >= (3, 11)
    return Check("Python", platform.python_version(), works, advice="" if works else "install Python 3.11 or newer")


def library_check(module: str, probe: RunProbe, source: str, required: bool = True) -> Check:
    """A library that only needs to be importable; `source` is what to install for it."""
    found = probe(_VERSION, module)
    name = "redis client" if module == "redis" else module
    advice = f"pip install -c constraints.txt {source}" if found.failure else ""
    return Check(name, found.failure or str(found.facts["version"]), not found.failure, required, advice)


def torch_check(torch: Probe) -> Check:
    """Whether PyTorch multiplies two matrices."""
    if torch.failure:
        return Check("torch", torch.failure, works=False, advice="pip install -c constraints.txt torch")
    return Check("torch", str(torch.facts["version"]), works=True)


def cores_check(torch: Probe, cores: float) -> Check:
    """The cores that this process may use, compared with the threads that torch would start."""
    threads = torch.facts.get("threads")
    crowded = isinstance(threads, int) and threads > max(1, cores)
    advice = f"set OMP_NUM_THREADS={max(1, int(cores))}: torch would start more threads than there are cores" if crowded else ""
    return Check("cores", f"{cores:g} usable, {threads or 'no'} torch threads", works=not crowded, required=False, advice=advice)


def bf16_check(bf16: Probe) -> Check:
    """How fast a server reads histories with bfloat16 on this CPU, and so what `--dtype auto` takes."""
    if bf16.failure:
        return Check("bf16 on the CPU", bf16.failure, works=False, required=False)
    speedup, needed = bf16.facts.get("speedup"), bf16.facts.get("needed")
    state = "the processor has no AVX512-BF16 and no AMX: auto takes fp32"
    if isinstance(speedup, float) and isinstance(needed, float):
        taken = "bf16" if speedup >= needed else f"fp32, because {needed:g} are needed"
        state = f"{speedup:.1f} times as fast as fp32: auto takes {taken}"
    return Check("bf16 on the CPU", state, works=True, required=False)


def memory_check(num_bytes: int | None) -> Check:
    """Whether there is enough memory for the demo. None stands for a system that does not say."""
    if num_bytes is None:
        return Check("memory", "unknown on this system", works=True, required=False)
    available = num_bytes / 2**30
    enough = available >= DEMO_MEMORY_GIB
    advice = "" if enough else f"`twotower demo` takes up to {DEMO_MEMORY_GIB:g} GiB: free some, or use a larger machine"
    return Check("memory", f"{available:.1f} GiB available", works=enough, required=False, advice=advice)


def faiss_check(faiss: Probe, required: bool) -> Check:
    """Whether FAISS finds the nearest of four vectors. Training does not need it."""
    if faiss.failure:
        return Check("FAISS", faiss.failure, False, required, "pip install -c constraints.txt 'twotower[cpu]' (or [gpu])")
    gpus = faiss.facts["gpus"]
    return Check("FAISS", f"{faiss.facts['version']}, search is right, {gpus or 'no'} GPU", True, required)


def sqlite_check(sqlite: Probe) -> Check:
    """Whether SQLite, the embedded history store, can keep a write-ahead log."""
    if sqlite.failure:
        advice = "use a Python built with SQLite and a temporary directory that can be written, or keep histories in Redis"
        return Check("SQLite", sqlite.failure, works=False, advice=advice)
    return Check("SQLite", f"{sqlite.facts['version']}, with write-ahead log", works=True)


def redis_server_check(server: str | None) -> Check:
    """Whether a Redis server is installed, when no URL was given."""
    if server:
        return Check("Redis server", f"installed: {server}", works=True, required=False)
    advice = "only for several servers at once: install redis-server, or test one with `twotower doctor --redis URL`"
    return Check("Redis server", "not installed", works=False, required=False, advice=advice)


def redis_url_check(redis: Probe) -> Check:
    """Whether the Redis at the given URL answers."""
    if redis.failure:
        return Check("Redis server", redis.failure, works=False, advice="start it, or correct the URL given with --redis")
    return Check("Redis server", f"{redis.facts['version']} answers", works=True)


def gpu_check(torch: Probe) -> Check:
    """The GPU that `--device cuda` would take, or why there is none. Nothing requires one."""
    if gpu := torch.facts.get("gpu"):
        return Check("GPU", str(gpu), works=True, required=False)
    advice = "nothing: all stages run on the CPU. With an NVIDIA GPU, install its driver and a CUDA build of torch"
    state = f"none: {why}" if (why := torch.facts.get("why")) else "none that torch can use"
    return Check("GPU", state, works=False, required=False, advice=advice)


def triton_check(torch: Probe, triton: Probe) -> Check:
    """Whether Triton, which compiles kernels for a GPU, is installed."""
    has_gpu = bool(torch.facts.get("gpu"))
    if not triton.failure:
        use = "used" if has_gpu else "idle without a GPU"
        return Check("Triton", f"{triton.facts['version']}, {use}", works=True, required=False)
    advice = "pip install 'twotower[gpu]'" if has_gpu else "nothing: it is used on a GPU only"
    return Check("Triton", triton.failure, works=False, required=False, advice=advice)


def usable_cores() -> float:
    """Number of usable cores: by affinity or by the container's quota, whichever is less."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.is_file():
        quota, period = limit.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def report(checks: list[Check]) -> TextTable:
    """The checks as a table: what, its state, what to do about it."""
    table = TextTable()
    for heading in ("", "what", "state", "what to do about it"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        mark = styled("ok", "green") if check.works else styled("fails", "red") if check.required else styled("-", "yellow")
        table.add_row(mark, check.what, check.state, check.advice)
    return table
