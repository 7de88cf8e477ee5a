"""The memory that a release needs, and returning freed memory to the system."""

import ctypes
from contextlib import suppress

from twotower.artefacts.manifest import Manifest
from twotower.artefacts.release import ReleaseInfo

_BYTES_PER_ITEM = 300  # for an id, its entries in a list and a dictionary, and a norm: 140 were measured with ids of 14 letters


def needed_bytes(manifest: Manifest, info: ReleaseInfo) -> int:
    """About the most bytes that a release takes.

    They are the sum of its files, which stay mapped or are copied (parts are put together, and not held themselves), a second
    copy of the item table for filters, the ids, and codes that the release does not store. A flat index also holds at most one
    more copy of the vectors; a float16 index on a GPU is filled from one.
    """
    files = {name: file.size for name, file in manifest.files.items()}
    vectors, items = (sum(files[part[place]] for part in info.part_files) for place in (0, 1))
    codes = 0 if info.index.stored else vectors // 2
    scanned = vectors if info.index.kind in ("flat", "gpu_flat16") else codes
    return sum(files.values()) + items + scanned + _BYTES_PER_ITEM * info.num_items


def give_back() -> None:
    """Return freed memory to the system. This is needed with glibc, which keeps it otherwise; elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
