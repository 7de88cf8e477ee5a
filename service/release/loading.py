"""Loads a release from its directory.

N: items, D: item vector width, V: D + popularity dimensions
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from service.kernels.finder import on_device
from service.model.cpu_dtype import WantedDtype, dtype_on_cpu
from service.model.pages import PagePools
from service.release.filters import Filters
from service.release.golden import replay_golden_queries
from service.release.loaded import LoadedRelease
from service.release.placing import needs_of, placed
from service.release.rounding import with_products_in
from service.release.served_map import read_served_map
from twotower.artefacts.bundle import load_towers
from twotower.artefacts.cache import fetch
from twotower.artefacts.manifest import UNREADABLE, Manifest
from twotower.artefacts.parts import read_items, read_vectors
from twotower.artefacts.release import GOLDEN, Address, ReleaseInfo, open_store, read_pointer, verify_release
from twotower.artefacts.signature import Verifier
from twotower.data.features import Floats
from twotower.device import ON_CPU, Device, choose, with_room
from twotower.device_option import Wanted
from twotower.errors import ReleaseMismatch
from twotower.index.files import open_index
from twotower.model.catalogue import ID_FIELD
from twotower.model.golden import GoldenQuery

_IDS_AT_ONCE, _ROWS_AT_ONCE = 4096, 65_536


def device_of(wanted: Wanted, dtype: WantedDtype = "fp32") -> Device:
    """The device on which an engine computes; EnvironmentProblem when this machine does not have it.

    `dtype` is for a CPU; `auto` measures which is faster. A GPU computes in bfloat16.
    """
    device = choose(wanted, torch.bfloat16)
    return device if device.is_gpu else replace(device, dtype=dtype_on_cpu(dtype))


def load_release(
    store: Address,
    signed_by: Verifier | None = None,
    device: Device = ON_CPU,
    pools: PagePools | None = None,
    release: str | None = None,
) -> LoadedRelease:
    """A release of the store, by default the current one, verified, loaded and checked with its golden queries.

    StoreError when there is none; IntegrityError, FormatError or ReleaseMismatch when it must not be used.
    """
    return open_release(fetch(open_store(store), release or read_pointer(store).release), signed_by, device, pools)


def open_release(
    path: Path, signed_by: Verifier | None = None, device: Device = ON_CPU, pools: PagePools | None = None
) -> LoadedRelease:
    """The release in a directory, verified, loaded and checked with its golden queries; errors as of `load_release`."""
    # Hashes are checked before anything is read, because FAISS reads damaged files without noticing and trusts their content.
    return read_release(path, *verify_release(path, signed_by), device, pools)


def read_release(
    path: Path, manifest: Manifest, info: ReleaseInfo, device: Device = ON_CPU, pools: PagePools | None = None
) -> LoadedRelease:
    """The release in a directory that was just verified; ReleaseMismatch when its golden queries get other answers.

    The model runs on `device` in its dtype, with pages from `pools`. An exact index and one of a kind for GPUs are searched
    there. Nothing here holds Python's global lock for long, because other threads may be answering requests meanwhile.
    """
    towers = load_towers(path, manifest)
    vectors_NV, items = read_vectors(path, info), read_items(path, info)
    check_agreement(path, info, vectors_NV, items)
    index = open_index(path, np.asarray(vectors_NV), towers.config.model.width, info.index, device)
    item_ids, rows = read_ids(items)
    release = LoadedRelease(
        id=manifest.id,
        info=info,
        towers=towers,
        vectors_NV=torch.from_numpy(vectors_NV),
        norms_N=norms_of(vectors_NV, towers.config.model.width),
        index=index,
        items=items,
        item_ids=item_ids,
        rows=rows,
        filters=Filters(items),
        item_map=read_served_map(path, manifest, info.num_items),
    )
    if len(release.rows) != len(item_ids):
        raise ReleaseMismatch(f"{path}: an item id occurs twice. Publish it again with `twotower embed`.")
    if device.is_gpu:
        assert pools is not None, "a server on a GPU has pools"
        device = with_room(device, needs_of(release, device, pools))
    release = replace(release, index=on_device(release.index, device))
    golden = read_golden(path)
    replay_golden_queries(release, golden)
    if device.is_gpu and pools is not None:
        return placed(release, device, pools)
    return with_products_in(release, device.dtype, golden)


def read_ids(items: pa.Table) -> tuple[list[str], dict[str, int]]:
    """Item ids in the order of their rows, and the row of each id. They are read in pieces, so that other threads get turns."""
    column, item_ids, rows = items.column(ID_FIELD), list[str](), dict[str, int]()
    for start in range(0, len(items), _IDS_AT_ONCE):
        part = column.slice(start, _IDS_AT_ONCE).to_pylist()
        item_ids += part
        rows.update(zip(part, range(start, start + len(part)), strict=True))
        time.sleep(0)  # lets a waiting thread run now; otherwise Python would let it wait for 5 ms each time
    return item_ids, rows


def norms_of(vectors_NV: Floats, width: int) -> Floats:
    """Norms [N] of the first `width` columns, never 0. Computed in pieces, because numpy makes a copy for the squares."""
    norms_N = np.empty(len(vectors_NV), np.float32)
    for start in range(0, len(vectors_NV), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        norms_N[part] = np.linalg.norm(vectors_NV[part, :width], axis=1)
    return np.maximum(norms_N, 1e-12)


def check_agreement(path: Path, info: ReleaseInfo, vectors_NV: npt.NDArray[Any], items: pa.Table) -> None:
    """ReleaseMismatch unless vectors and item table hold the same items in the same space."""
    shape = (info.num_items, info.vector_width)
    says = f"release.json says {info.num_items} of width {info.vector_width}"
    if vectors_NV.shape != shape or vectors_NV.dtype != np.float32:
        raise _mismatch(path, f"vectors are {vectors_NV.dtype} {vectors_NV.shape}, {says}")
    if len(items) != info.num_items:
        raise _mismatch(path, f"the item table has {len(items)} rows, {says}")


def read_golden(path: Path) -> list[GoldenQuery]:
    """The golden queries of a verified release; ReleaseMismatch when the file cannot be read."""
    try:
        return msgspec.json.decode((path / GOLDEN).read_bytes(), type=list[GoldenQuery])
    except UNREADABLE as error:
        raise _mismatch(path, f"{GOLDEN} cannot be read: {error}") from error


def _mismatch(path: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{path}: {what}. Publish it again with `twotower embed`.")
