"""How much memory a release will take, and giving back what one has left behind."""

import ctypes
from contextlib import suppress

from twotower.artefacts.manifest import Manifest
from twotower.artefacts.release import ITEMS, VECTORS, ReleaseInfo

_BYTES_PER_ITEM = 300  # an id, its places in a list and a dictionary, a norm: 140 were measured with ids of 14 letters


def needed_bytes(manifest: Manifest, info: ReleaseInfo) -> int:
    """What a release takes at most: its files, which stay mapped or are copied, the item table once more for filters, and its
    ids; a flat index holds the vectors, or the little of them that it scans, once more.
    """
    files = {name: file.size for name, file in manifest.files.items()}
    scanned = files[VECTORS] if info.index.kind == "flat" else 0
    return sum(files.values()) + files[ITEMS] + scanned + _BYTES_PER_ITEM * info.num_items


def give_back() -> None:
    """Hand memory that is no longer used to the system, where the C library keeps it: glibc does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
