"""The search of an exact index on a GPU: bounds of all rows from int8 codes, then scores of rows that could be among the best.

N: items, V: vector width, Q: queries, X: rows left out, C: candidates, which are pairs of a query and a row
"""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch

from service.kernels.catalogue import MAX_WIDTH, bitmap
from service.kernels.certified import coded_catalogue_of
from service.kernels.topk import top_k
from twotower.data.features import Floats, Ints
from twotower.device import Device
from twotower.errors import ReleaseMismatch
from twotower.index.kinds import EXACT
from twotower.index.scan import Mask
from twotower.index.search import Index

_NOBODY = -1


class DeviceFinder:
    """Finds rows on a device, which holds them in float32 and as int8 codes."""

    def __init__(self, vectors_NV: Floats, device: torch.device) -> None:
        self._device = device
        self.catalogue = coded_catalogue_of(torch.from_numpy(np.asarray(vectors_NV)).to(device))

    @property
    def num_bytes(self) -> int:
        """About the bytes taken on the device: rows and codes."""
        return self.catalogue.rows_PV.nbytes + self.catalogue.codes_PV.nbytes

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None, without: Sequence[Ints] = ()) -> tuple[Ints, Ints]:
        """The best k allowed rows of each query, without the rows that it leaves out; equal scores by the lower row."""
        queries = torch.from_numpy(queries_QV).to(self._device)
        allowed_W = None if allowed is None else bitmap(torch.from_numpy(allowed).to(self._device), self.catalogue)
        excluded_XQ = list(zip_longest(*(rows.tolist() for rows in without), fillvalue=_NOBODY))
        excluded_QX = torch.tensor(excluded_XQ, dtype=torch.int32, device=self._device).T if excluded_XQ else None
        rows_QK, _ = top_k(queries, self.catalogue, k, allowed_W, excluded_QX)
        found_QK = rows_QK.cpu().numpy()
        query_C, place_C = np.nonzero(found_QK >= 0)
        return query_C, found_QK[query_C, place_C]


def on_device(index: Index, device: Device) -> Index:
    """The index, to be searched on a device if it is exact and its rows are not too wide; any other index is returned as it is.

    ReleaseMismatch when the device does not have enough memory.
    """
    if not device.is_gpu or index.kind not in EXACT or index.vectors_NV.shape[1] > MAX_WIDTH:
        return index
    try:
        finder = DeviceFinder(index.vectors_NV, device.torch_device)
    except torch.OutOfMemoryError as error:
        raise ReleaseMismatch(
            f"{len(index)} vectors do not fit on {device.torch_device}. Serve them with --device cpu, or free memory on it."
        ) from error
    return Index(index.kind, index.vectors_NV, finder, exact=finder)
