"""A release is placed on a device if the kernels can run its model, and says beforehand what it takes there."""

import pytest
import torch

from service.model.pages import PagePools
from service.release.loaded import LoadedRelease
from service.release.placing import needs_of, placed
from twotower.device import CPU, Device
from twotower.errors import ReleaseMismatch


def test_heads_that_the_kernels_cannot_read_are_refused_on_a_gpu(release: LoadedRelease) -> None:
    with pytest.raises(
        ReleaseMismatch, match=r"heads of width 8, and the kernels need a multiple of 16. Serve it with --device cpu"
    ):
        placed(release, Device(torch.device("cuda"), torch.bfloat16), PagePools(1 << 30))


def test_it_needs_weights_pages_vectors_and_codes_and_pages_only_once(release: LoadedRelease) -> None:
    device, pools = Device(CPU, torch.bfloat16), PagePools(1 << 24)
    needs = needs_of(release, device, pools)
    num_items, width = release.vectors_NV.shape
    assert (needs.pages, needs.vectors, needs.index) == (1 << 24, 4 * num_items * width, num_items * (width + 8))
    assert needs.weights > sum(4 * parameter.numel() for parameter in release.towers.contextualizer.blocks.parameters())
    pool = pools.pool_for(release.towers.config.model, CPU, torch.bfloat16)
    assert needs_of(release, device, pools).pages == 0
    assert pool.cache_L2NGCE.nbytes <= 1 << 24
