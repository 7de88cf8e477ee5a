"""The Python client as a package."""

import os
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3] / "clients" / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it."""
    out = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; print(hatchling.build.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=PROJECT, capture_output=True, text=True, check=True)
    return out / done.stdout.split()[-1]


def test_the_wheel_has_types_and_needs_httpx_and_msgspec_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (metadata,) = [files.read(name).decode() for name in names if name.endswith("METADATA")]
    needs = message_from_string(metadata).get_all("Requires-Dist")
    assert needs == ["httpx>=0.28", "msgspec>=0.20"]
    assert "twotower_client/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {
        "twotower_client",
        f"twotower_client-{wheel.name.split('-')[1]}.dist-info",
    }


def test_it_imports_nothing_of_the_server_and_no_large_library(wheel: Path) -> None:
    code = "import sys, twotower_client; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=wheel.parent, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "twotower_client" in loaded
    assert not loaded & {"twotower", "service", "training", "torch", "numpy", "pyarrow", "pydantic"}
