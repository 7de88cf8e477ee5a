"""Places a release on a device: its model, its item vectors and the pages for the histories of its users.

N: items, V: vector width
"""

from dataclasses import replace

import torch

from service.kernels.catalogue import MAX_WIDTH
from service.kernels.finder import DeviceFinder
from service.model.device_model import DeviceModel
from service.model.pages import PagePools
from service.release.loaded import LoadedRelease
from twotower.device import Device, Needs
from twotower.errors import ReleaseMismatch
from twotower.index.kinds import EXACT

_HEAD_MULTIPLE = 16  # of the width of a head: what the kernels take


def placed(release: LoadedRelease, device: Device, pools: PagePools) -> LoadedRelease:
    """The release with a reader on the device. It must have no item changes.

    ReleaseMismatch when the device has too little memory, or when the kernels cannot run this model.
    """
    config, where = release.towers.config.model, device.torch_device
    head_width = config.width // config.num_heads
    if device.is_gpu and head_width % _HEAD_MULTIPLE:
        raise ReleaseMismatch(
            f"{release.id} has heads of width {head_width}, and the kernels need a multiple of {_HEAD_MULTIPLE}. "
            f"Serve it with --device cpu, or train a model with other heads."
        )
    finder = release.index.finder
    catalogue = finder.catalogue if isinstance(finder, DeviceFinder) else None
    num_items, width = release.vectors_NV.shape
    try:
        vectors_NV = release.vectors_NV.to(where) if catalogue is None else catalogue.rows_PV[:num_items, :width]
        pool = pools.pool_for(config, where, device.dtype)
        model = DeviceModel(release.towers.contextualizer, config, vectors_NV, pool, catalogue)
    except torch.OutOfMemoryError as error:
        raise ReleaseMismatch(
            f"{release.id} does not fit on {where}. Serve it with --device cpu, or free memory on it."
        ) from error
    return replace(release, device_model=model)


def needs_of(release: LoadedRelease, device: Device, pools: PagePools) -> Needs:
    """The bytes that a release takes on the device, when its index is searched there if it is exact."""
    config, num_values = release.towers.config.model, release.vectors_NV.numel()
    is_searched = release.index.kind in EXACT and release.vectors_NV.shape[1] <= MAX_WIDTH
    return Needs(
        weights=sum(tensor.nbytes for tensor in release.towers.contextualizer.state_dict().values()),
        pages=pools.needed_bytes(config, device.torch_device, device.dtype),
        vectors=release.vectors_NV.nbytes,
        index=(num_values + 8 * len(release.vectors_NV)) if is_searched else 0,  # codes, and two numbers for each row
    )
