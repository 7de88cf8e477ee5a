"""Releases as they lie on a device, on CPU tensors: with the torch references of the kernels, or with the kernels themselves."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import msgspec
import numpy as np
import torch
from torch import Tensor

from service.kernels.finder import DeviceFinder
from service.model.pages import PagePools
from service.release.loaded import LoadedRelease
from service.release.placing import placed
from tests.interpreter import checked
from twotower.artefacts.bundle import Towers
from twotower.device import CPU, Device
from twotower.index.search import Index
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer


def on_tensors(release: LoadedRelease, dtype: torch.dtype = torch.float32, pool_bytes: int = 64 << 20) -> LoadedRelease:
    """The release with its model and its search on CPU tensors, as on a GPU."""
    vectors_NV = release.index.vectors_NV
    finder = DeviceFinder(vectors_NV, CPU)
    searched = dataclasses.replace(release, index=Index("flat", vectors_NV, finder, exact=finder))
    return with_model_on_tensors(searched, dtype, pool_bytes)


def with_numpy(release: LoadedRelease) -> LoadedRelease:
    """The release on a machine on which nothing can be compiled."""
    with patch("service.model.cpu_reader.compiled_model", return_value=None):
        return dataclasses.replace(release)


def with_model_on_tensors(release: LoadedRelease, dtype: torch.dtype, pool_bytes: int = 64 << 20) -> LoadedRelease:
    """The release with its model on CPU tensors, searched as before: a reference that sorts all scores is slow."""
    return placed(release, Device(CPU, dtype), PagePools(pool_bytes))


def with_wide_heads(release: LoadedRelease) -> LoadedRelease:
    """The release with another model, untrained, whose heads are as wide as the kernels need them, and with vectors to match."""
    model = msgspec.structs.replace(
        release.towers.config.model, width=64, ffn_width=96, num_heads=4, num_kv_heads=2, num_layers=2
    )
    towers = with_untrained(release.towers, model)
    vectors_NV = torch.cat([torch.randn(len(release), 64), release.vectors_NV[:, -1:]], 1).contiguous()
    finder = DeviceFinder(vectors_NV.numpy(), CPU)
    index = Index("flat", vectors_NV.numpy(), finder, exact=finder)
    norms_N = np.linalg.norm(vectors_NV[:, :64].numpy(), axis=1)
    return dataclasses.replace(release, towers=towers, vectors_NV=vectors_NV, norms_N=norms_N, index=index)


def without_past_attention_and_clock(release: LoadedRelease) -> LoadedRelease:
    """The release with another model, untrained, of the kind that the recipe `leave_one_out` trains."""
    model = msgspec.structs.replace(release.towers.config.model, past_heads=0, clock=False)
    return dataclasses.replace(release, towers=with_untrained(release.towers, model))


def with_untrained(towers: Towers, model: ModelConfig) -> Towers:
    """The towers with an untrained contextualizer of these sizes."""
    torch.manual_seed(1)
    contextualizer = Contextualizer(model).eval()
    with torch.no_grad():
        for parameter in contextualizer.parameters():  # a new model's biases are 0, its norms 1: much could be wrong unseen
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        contextualizer.popularity_out.weight.mul_(10)
    config = msgspec.structs.replace(towers.config, model=model)
    return dataclasses.replace(towers, contextualizer=contextualizer, config=config)


@contextmanager
def through_kernels(seed: int = 0) -> Iterator[None]:
    """Operations on CPU tensors run their kernels in Triton's interpreter, watched."""

    def always(*_: Tensor) -> bool:
        return True

    replaced = [patch(f"{module}.use_triton", always) for module in ("twotower.kernels.dispatch", "service.kernels.topk")]
    with replaced[0], replaced[1], checked(seed):
        yield
