"""The benchmark runs with torch, Triton and numpy alone, as on a GPU machine without a network."""

import subprocess
import sys

import pytest

from benchmarks.device_path.bare import Anything, Record, StandIn

# What torch and Triton themselves need.
BARE = """
import sys
from importlib.machinery import PathFinder

HERE = {"torch", "torchgen", "functorch", "numpy", "triton", "sympy", "mpmath", "typing_extensions", "filelock", "networkx",
        "jinja2", "markupsafe", "fsspec", "setuptools", "benchmarks", "twotower", "training",
        "embedder_cache", "service"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        first = name.partition(".")[0]
        known = first in HERE or first in sys.stdlib_module_names or first.startswith("_")
        return PathFinder.find_spec(name, path, target) if known else None

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
from benchmarks.gpu import main
raise SystemExit(main(["--dry-run", "--only", "training"]))
"""


@pytest.mark.timeout(400)  # loads torch and its compiler in a process of its own: 10 s on a quiet core
def test_a_dry_run_needs_neither_arrow_nor_msgspec_nor_rich() -> None:
    run = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "not installed, and not needed: msgspec, pyarrow, xxhash, rich" in run.stdout
    assert "training, stage 2: not measured" in run.stdout


def test_a_record_is_a_frozen_dataclass_with_defaults_of_its_own() -> None:
    class Sizes(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
        width: int = 3
        names: dict[str, int] = {}  # noqa: RUF012

    one, other = Sizes(), Sizes(width=4)  # type: ignore[call-arg]
    assert (one.width, other.width) == (3, 4)
    assert one.names is not other.names


def test_a_stand_in_takes_what_is_done_with_it_at_import() -> None:
    arrow = StandIn("pyarrow")
    schema = arrow.schema([("row", arrow.int64())])
    assert list(schema.field("row")) == []
    assert arrow.Array | None is Anything

    class Table(arrow.Table):  # type: ignore[misc, name-defined]
        pass

    assert Table("a", title="b").add_column("c") is not None
