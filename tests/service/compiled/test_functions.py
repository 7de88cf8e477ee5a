"""Functions compiled for this processor are found in a folder, or made with the first release; else numpy computes."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest
from numba.core.caching import CacheImpl, UserProvidedCacheLocator

from service.compiled import functions as compiled

SMALL = """
import numba

OPTIONS = {}
READ = KEEP = ASK = numba.float64(numba.float64)

def read(x):
    return 2 * x

def keep(x):
    return x + 1

def ask(x):
    return 3 * x
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which numba keeps functions; small ones, which are compiled at once, take the place of the real ones."""
    (tmp_path / "small_loops.py").write_text(SMALL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compiled, "LOOPS", "small_loops")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(CacheImpl, "_locator_classes", [UserProvidedCacheLocator])
    compiled.functions.cache_clear()
    yield tmp_path / "kept"
    compiled.functions.cache_clear()
    sys.modules.pop("small_loops", None)


def made(caplog: pytest.LogCaptureFixture) -> tuple[compiled.Functions | None, list[str]]:
    """What a new process gets, and the lines that it logs."""
    compiled.functions.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "twotower.model"):
        functions = compiled.functions()
    return functions, [record.getMessage() for record in caplog.records]


def test_functions_are_compiled_once_and_kept(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    functions, lines = made(caplog)
    assert functions is not None
    assert functions.read(2.0) == 4.0
    assert [line.partition(" in ")[0] for line in lines] == ["compiled what reads appended events for this processor"]
    functions, lines = made(caplog)
    assert functions is not None
    assert functions.ask(2.0) == 6.0
    assert lines == []


def test_no_call_compiles_anything(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    functions, _ = made(caplog)
    assert functions is not None
    with pytest.raises(TypeError, match="No matching definition"):
        functions.read("text")


def test_what_another_processor_compiled_is_compiled_anew_with_a_line(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = "import numba, small_loops as k; [numba.njit(cache=True)(f).compile(k.READ) for f in (k.read, k.keep, k.ask)]"
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(kept), "PYTHONPATH": str(kept.parent)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | other, check=True)
    there = set(kept.rglob("*.nbc"))
    assert len(there) == 3
    functions, lines = made(caplog)
    assert functions is not None
    assert functions.read(2.0) == 4.0
    assert len(lines) == 1
    assert lines[0].startswith("compiled what reads appended events for this processor")
    assert len(set(kept.rglob("*.nbc"))) == 6


def test_without_numba_numpy_computes(kept: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    functions, (line,) = made(caplog)
    assert functions is None
    assert line.startswith("appended events are read with numpy, which takes longer")


def test_without_a_folder_to_write_to_numpy_computes(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept.write_text("no folder")
    functions, (line,) = made(caplog)
    assert functions is None
    assert "no locator available" in line


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 64])
def test_over_a_damaged_file_numpy_computes(kept: Path, caplog: pytest.LogCaptureFixture, kind: str, damage: bytes) -> None:
    made(caplog)
    for file in kept.rglob(f"*.{kind}"):
        file.write_bytes(damage)
    functions, (line,) = made(caplog)
    assert functions is None
    assert line.startswith("appended events are read with numpy, which takes longer")
