"""Where embeddings come from."""

from pathlib import Path

import pytest
import torch

from embedder_cache.commands.embed_command import main
from embedder_cache.embedding import engines
from embedder_cache.embedding.engines import engine_named
from embedder_cache.embedding.local_engine import embed_here
from twotower.device import Device
from twotower.errors import EnvironmentProblem


def test_this_process_is_the_default_engine() -> None:
    assert engine_named("local") is embed_here


def test_a_cluster_embeds_on_its_cpus() -> None:
    with pytest.raises(EnvironmentProblem, match="--engine ray embeds on the CPUs of the cluster: leave out --device"):
        engine_named("ray", Device(torch.device("cuda")))


def test_a_gpu_that_cannot_be_had_is_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("twotower.device.why_no_gpu", lambda _: "there is none")
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(EnvironmentProblem, match="--device cuda cannot be had: there is none"):
        main(["--bundle", nowhere, "--items", nowhere, "--store", str(tmp_path), "--device", "cuda"])


def test_an_engine_that_is_not_installed_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(EnvironmentProblem, match=r"pip install 'twotower\[ray\]'"):
        main(["--bundle", nowhere, "--items", nowhere, "--store", nowhere, "--engine", "ray"])
