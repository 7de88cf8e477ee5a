"""What `--device` gives on machines with a GPU, without one, and with one that cannot be used."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from twotower import device
from twotower.device import CPU, ON_CPU, RESERVED_BYTES, Device, Needs, choose, may_have_gpu, why_no_gpu, with_room
from twotower.errors import EnvironmentProblem

GPU = torch.device("cuda", 0)
GIB = 1 << 30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with one H100, on which 10 GiB are free, and 2 more are cached by torch."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, found in {
        "init": lambda: None,
        "device_count": lambda: 1,
        "get_device_name": lambda _: "NVIDIA H100",
        "get_device_capability": lambda _: (9, 0),
        "get_device_properties": lambda _: SimpleNamespace(name="NVIDIA H100", total_memory=80 * GIB),
        "mem_get_info": lambda _: (10 * GIB, 80 * GIB),
        "memory_reserved": lambda _: 3 * GIB,
        "memory_allocated": lambda _: 1 * GIB,
    }.items():
        monkeypatch.setattr(torch.cuda, name, found)
    monkeypatch.setattr(device, "find_spec", lambda _: object())
    return monkeypatch


def fail(error: Exception) -> object:
    def init() -> None:
        raise error

    return init


def test_the_cpu_is_taken_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose("cpu", torch.bfloat16) == ON_CPU == Device(CPU, torch.float32)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("gpu")
def test_the_gpu_is_taken_with_the_dtype_that_the_command_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose("cuda", torch.bfloat16) == Device(GPU, torch.bfloat16)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("gpu")
def test_auto_says_which_gpu_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose("auto") == Device(GPU, torch.float32, is_auto=True)
    assert capsys.readouterr().err == "device: cuda:0, NVIDIA H100 with 80.0 GiB\n"


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "why_no_gpu", lambda _: "the machine has none")
    assert choose("auto") == ON_CPU
    assert capsys.readouterr().err == "device: cpu, because the machine has none\n"
    with pytest.raises(EnvironmentProblem, match=r"^--device cuda cannot be had: the machine has none\. Use --device cpu"):
        choose("cuda")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ...",
            "the NVIDIA driver (it supports CUDA 11.4) is too old for torch",
        ),
        ("Found no NVIDIA driver on your system. Please check ...", "no NVIDIA driver is installed"),
        ("No CUDA GPUs are available", "torch finds no GPU (CUDA_VISIBLE_DEVICES may hide it)"),
        ("Cannot re-initialize CUDA in forked subprocess.\nUse spawn", "(Cannot re-initialize CUDA in forked subprocess.)"),
    ],
)
def test_a_driver_that_does_not_work_gets_one_clause(gpu: pytest.MonkeyPatch, error: str, told: str) -> None:
    gpu.setattr(torch.cuda, "init", fail(RuntimeError(error)))
    assert told in why_no_gpu()
    assert "\n" not in why_no_gpu()


def test_a_torch_that_is_built_for_the_cpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "is built for the CPU alone" in why_no_gpu()


def test_a_gpu_that_is_too_old_for_the_kernels_is_not_taken(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert why_no_gpu() == "NVIDIA H100 has compute capability 7.5, and the kernels need 8.0 (A100 and later)"


def test_a_gpu_without_triton_is_not_taken(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(device, "find_spec", lambda _: None)
    assert "pip install 'twotower[gpu]'" in why_no_gpu()


@pytest.mark.usefixtures("gpu")
def test_a_rank_more_than_there_are_gpus_is_told() -> None:
    assert why_no_gpu(0) == ""
    assert why_no_gpu(1) == "GPU 1 is asked for, and torch finds 1"


@pytest.mark.usefixtures("gpu")
def test_a_device_with_room_is_kept() -> None:
    assert with_room(Device(GPU), Needs(vectors=12 * GIB - RESERVED_BYTES)) == Device(GPU)
    assert with_room(ON_CPU, Needs(vectors=1000 * GIB)) == ON_CPU


@pytest.mark.usefixtures("gpu")
def test_too_little_memory_says_what_needs_how_much() -> None:
    needs = Needs(weights=GIB // 2, pages=4 * GIB, vectors=6 * GIB, index=3 * GIB)
    told = "cuda:0 has 12.0 GiB free, and 14.0 GiB are needed "
    parts = r"\(weights 0.5 GiB, pages 4.0 GiB, vectors 6.0 GiB, index 3.0 GiB, kept free 0.5 GiB\)"
    with pytest.raises(EnvironmentProblem, match=told + parts):
        with_room(Device(GPU), needs)


@pytest.mark.usefixtures("gpu")
def test_auto_takes_the_cpu_instead_of_a_device_with_too_little_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_room(Device(GPU, is_auto=True), Needs(index=12 * GIB)) == ON_CPU
    assert capsys.readouterr().err.startswith(
        "device: cpu, because cuda:0 has 12.0 GiB free, and 12.5 GiB are needed (index 12.0"
    )


@pytest.mark.parametrize(("files", "found"), [([], False), (["null"], False), (["nvidiactl"], True), (["kfd"], True)])
def test_the_files_of_a_driver_are_known(tmp_path: Path, files: list[str], found: bool) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert may_have_gpu(tmp_path) is found


def test_the_cpu_has_no_stream() -> None:
    assert not ON_CPU.is_gpu
    assert ON_CPU.copy_stream() is None
