"""The packages of machines with a GPU: which versions are pinned, and that they install together."""

import json
import os
import re
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {"gpu": ROOT / "deploy" / "constraints_gpu.txt", "cagra": ROOT / "deploy" / "constraints_cagra.txt"}
OTHERS = {"torch", "triton"}  # their versions follow the CUDA that FAISS wants
FAISS = {"gpu": "faiss-gpu", "cagra": "faiss-gpu-cuvs"}


def name_of(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name_of(name): version for name, _, version in (line.partition("==") for line in lines)}


def extra(name: str) -> list[str]:
    requirements: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][name]
    return requirements


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_no_part_of_cuda_has_the_version_that_the_tests_use(name: str) -> None:
    tested, pinned = pins(ROOT / "constraints.txt"), pins(FILES[name])
    assert {one: pinned[one] for one in pinned.keys() & tested.keys() - OTHERS} == {
        one: tested[one] for one in pinned.keys() & tested.keys() - OTHERS
    }
    added = pinned.keys() - tested.keys()
    assert all(one.startswith(("nvidia-", "cuda-", "faiss-gpu", "libcuvs-", "libraft-", "librmm-", "rapids-")) for one in added)


@pytest.mark.parametrize("name", FILES)
def test_one_faiss_is_pinned_as_in_the_extra(name: str) -> None:
    """Two of them would write into one folder."""
    pinned = pins(FILES[name])
    assert [one for one in pinned if "faiss" in one] == [FAISS[name]]
    assert f"{FAISS[name]}=={pinned[FAISS[name]]}" in extra(name)


def test_cuda_12_stands_beside_the_cuda_13_of_torch() -> None:
    pinned = pins(FILES["gpu"])
    assert {"nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"} <= pinned.keys()
    assert not [one for one in pins(FILES["cagra"]) if one.endswith("-cu12")]


@pytest.mark.wheels
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FILES)
def test_all_of_it_installs_together_and_nothing_is_left_unpinned(name: str, tmp_path: Path) -> None:
    """Resolved by pip from the packages' metadata. None is downloaded whole: `fast-deps` reads the end of a wheel."""
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip>=26"], check=True)
    report, extras = tmp_path / "report.json", f".[train,embed,serve,{name}]"
    asked = [
        "--dry-run",
        "--ignore-installed",
        "--use-feature=fast-deps",
        "--quiet",
        "--report",
        str(report),
        "-c",
        str(FILES[name]),
    ]
    # A machine for tests may prefer torch for the CPU, by its settings of pip.
    settings = {"PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PIP_CONSTRAINT": "", "PIP_BUILD_CONSTRAINT": ""}
    ran = subprocess.run(
        [*pip, "install", *asked, extras], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = {name_of(one["metadata"]["name"]): one["metadata"]["version"] for one in json.loads(report.read_text())["install"]}
    del found["twotower"]
    assert found == pins(FILES[name])
