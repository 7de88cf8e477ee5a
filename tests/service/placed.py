"""A release as it lies on a device, on CPU tensors: the code of a GPU with the torch references of its kernels."""

import dataclasses

import torch

from service.kernels.finder import DeviceFinder
from service.model.pages import PagePools
from service.release.loaded import LoadedRelease
from service.release.placing import placed
from twotower.device import CPU, Device
from twotower.index.search import Index


def on_tensors(release: LoadedRelease, dtype: torch.dtype = torch.float32, pool_bytes: int = 64 << 20) -> LoadedRelease:
    """The release with its model and its search on CPU tensors, as on a GPU."""
    vectors_NV = release.index.vectors_NV
    finder = DeviceFinder(vectors_NV, CPU)
    searched = dataclasses.replace(release, index=Index("flat", vectors_NV, finder, exact=finder))
    return placed(searched, Device(CPU, dtype), PagePools(pool_bytes))
