"""The packages of machines with and without a GPU: which versions are pinned, and that they install together."""

import json
import os
import re
import subprocess
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.kernel_resources import TRITON

ROOT = Path(__file__).parents[2]
FILES = {"gpu": ROOT / "deploy" / "constraints_gpu.txt", "cagra": ROOT / "deploy" / "constraints_cagra.txt"}
TESTED = ROOT / "constraints.txt"
OF_CUDA = ("nvidia-", "cuda-", "faiss-gpu", "libcuvs-", "libraft-", "librmm-", "rapids-")
OTHERS = {"torch", "triton"}  # their versions follow the CUDA that FAISS wants
FAISS = {"gpu": "faiss-gpu", "cagra": "faiss-gpu-cuvs"}


def name_of(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def pins(file: Path) -> dict[str, str]:
    """The exact versions of a constraints file, by package."""
    return {name_of(one.name): str(next(iter(one.specifier)).version) for one in constraints(file) if is_exact(one)}


def constraints(file: Path) -> list[Requirement]:
    return [Requirement(line) for line in file.read_text().splitlines() if line and not line.startswith("#")]


def is_exact(requirement: Requirement) -> bool:
    return [one.operator for one in requirement.specifier] == ["=="]


def extras() -> dict[str, list[str]]:
    declared: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return declared


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_no_part_of_cuda_has_the_version_that_the_tests_use(name: str) -> None:
    tested, pinned = pins(TESTED), pins(FILES[name])
    assert {one: pinned[one] for one in pinned.keys() & tested.keys() - OTHERS} == {
        one: tested[one] for one in pinned.keys() & tested.keys() - OTHERS
    }
    added = pinned.keys() - tested.keys() - OTHERS
    assert all(one.startswith(OF_CUDA) for one in added)


def test_every_version_is_exact_but_that_of_triton_which_torch_for_cuda_chooses_itself() -> None:
    """Another would be refused by the torch of PyPI, and with it every installation on an ordinary machine."""
    (loose,) = [one for one in constraints(TESTED) if not is_exact(one)]
    with_cuda = pins(FILES["gpu"])
    assert (loose.name, pins(TESTED)["torch"]) == ("triton", with_cuda["torch"])
    assert loose.specifier.contains(with_cuda["triton"])
    assert str(loose.specifier) == f"<={TRITON}", "the newest one is that of the record of the kernels' resources"


@pytest.mark.parametrize("name", FILES)
def test_one_faiss_is_pinned_as_in_the_extra(name: str) -> None:
    """Two of them would write into one folder."""
    pinned = pins(FILES[name])
    assert [one for one in pinned if "faiss" in one] == [FAISS[name]]
    assert f"{FAISS[name]}=={pinned[FAISS[name]]}" in extras()[name]


def test_cuda_12_stands_beside_the_cuda_13_of_torch() -> None:
    pinned = pins(FILES["gpu"])
    assert {"nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"} <= pinned.keys()
    assert not [one for one in pins(FILES["cagra"]) if one.endswith("-cu12")]


@pytest.mark.wheels
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FILES)
def test_all_of_it_installs_together_and_nothing_is_left_unpinned(name: str, tmp_path: Path) -> None:
    assert resolved(["train", "embed", "serve", name], FILES[name], tmp_path) == pins(FILES[name])


@pytest.mark.wheels
@pytest.mark.timeout(1800)
def test_all_that_needs_no_gpu_installs_together_from_pypi_whose_torch_is_for_cuda(tmp_path: Path) -> None:
    """What `make demo`, `make test` and the images install are parts of it."""
    found = resolved(sorted(extras().keys() - FILES.keys()), TESTED, tmp_path)
    added = {one for one in found.keys() - pins(TESTED).keys() if not one.startswith(OF_CUDA)}
    assert added == {"triton"}
    assert {one: found[one] for one in found.keys() & pins(TESTED).keys()} == {
        one: version for one, version in pins(TESTED).items() if one in found
    }


def resolved(names: Sequence[str], file: Path, directory: Path) -> dict[str, str]:
    """The versions that pip finds for some extras, by package, from their metadata.

    None is downloaded whole: `fast-deps` reads the end of a wheel.
    """
    venv.create(directory / "venv", with_pip=True)
    pip = [str(directory / "venv/bin/python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip>=26"], check=True)
    report = directory / "report.json"
    asked = ["--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--quiet", "--report", str(report), "-c", str(file)]
    # A machine for tests may prefer torch for the CPU, by its settings of pip.
    settings = {"PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PIP_CONSTRAINT": "", "PIP_BUILD_CONSTRAINT": ""}
    command = [*pip, "install", *asked, f".[{','.join(names)}]"]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = {name_of(one["metadata"]["name"]): one["metadata"]["version"] for one in json.loads(report.read_text())["install"]}
    del found["twotower"]
    return found
