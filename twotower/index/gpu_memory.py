"""How much memory of a GPU each of its kinds of index takes, and which kind fits.

The formulas follow the sources of FAISS 1.15 and cuVS 26.6. They were not measured on a GPU. All numbers are bytes.

N: items, V: vector width, D: embedding width, W: columns of a row in the index
"""

from dataclasses import dataclass

from twotower.errors import EnvironmentProblem
from twotower.index.distance import layout
from twotower.index.kinds import GpuKind, Kind

MIB = 1 << 20
# Each open index sets its temporary memory to this size. FAISS adds rows in pages of 256 MiB, and half as much once more for
# their float16 copy, so that a page finds room in it.
TEMPORARY_BYTES = 512 * MIB
GRAPH_DEGREE, BUILD_DEGREE = 64, 128  # links of a row in a finished graph of CAGRA, and while it is built
SAMPLES = 64  # rows per list to train the lists on
CODE_BITS = 8  # GPUs search no other codes
CODES = 1 << CODE_BITS
# How many codes a row may have. FAISS has a kernel for each of these numbers.
_NUM_CODES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
MAX_TAIL = _NUM_CODES[-1] - 2  # columns after the embedding; it and the added column have a code too
_BLOCK = 4  # columns of a code, which is a quarter of a byte a column
_ALIGNED_COLUMNS: dict[GpuKind, int] = {"gpu_flat16": 8, "gpu_cagra": 4}  # 16 bytes
_LIST_BYTES = 2 * 512  # of codes and of row numbers, each rounded up by the driver
_EXACT_MAX_WIDTH = 512  # of vectors that the exact search on a GPU takes
_EXACT_ALIGNED = 16  # columns
_EXACT_BYTES = 5  # of a value: float32 and an int8 code
OTHER_KIND = "take another kind with `twotower embed --index`"
# A server keeps the old release while it loads the new one. The model and the users' states need room too.
_RELEASES_AT_ONCE, _SHARE_FOR_INDEX = 2, 0.5


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of an index on a GPU."""

    block: int  # columns that have a code of their own, or that a column of large range keeps for itself
    width: int  # columns of a row, padding included
    lists: int  # inverted lists; 0 for a kind without lists
    codes: int  # codes of a row, of a byte each; 0 for a kind without codes


def geometry_of(kind: GpuKind, num_items: int, num_columns: int, width: int) -> Geometry:
    """The shape of an index over `num_items` vectors of `num_columns`, of which the first `width` are the embedding.

    EnvironmentProblem for more dimensions of popularity and signals than codes.
    """
    if kind != "gpu_ivfpq":
        _, total = layout(num_columns, width)
        aligned = _ALIGNED_COLUMNS[kind]
        return Geometry(2, -(-total // aligned) * aligned, 0, 0)
    if num_columns - width > MAX_TAIL:
        raise EnvironmentProblem(
            f"the index kind gpu_ivfpq keeps a code for each of at most {MAX_TAIL} dimensions of popularity and signals, not "
            f"{num_columns - width}: {OTHER_KIND}"
        )
    block = _BLOCK
    while layout(num_columns, width, block)[1] > block * _NUM_CODES[-1]:
        block += _BLOCK
    _, total = layout(num_columns, width, block)
    codes = next(number for number in _NUM_CODES if number >= total // block)
    return Geometry(block, block * codes, max(int(num_items**0.5), 1), codes)


def held_bytes(kind: GpuKind, num_items: int, num_columns: int, width: int) -> int:
    """What an open index takes, with the temporary memory of its searches."""
    shape = geometry_of(kind, num_items, num_columns, width)
    match kind:
        case "gpu_flat16":
            rows = num_items * (2 * shape.width + 4)  # and the norm of each
        case "gpu_ivfpq":
            rows = num_items * (shape.codes + 4)  # and the number of each
            rows += shape.lists * (4 * shape.width + _LIST_BYTES) + CODES * 4 * shape.width
        case "gpu_cagra":
            rows = num_items * 4 * (shape.width + GRAPH_DEGREE)
    return rows + TEMPORARY_BYTES


def built_bytes(kind: GpuKind, num_items: int, num_columns: int, width: int) -> int:
    """The most that an index takes while it is built."""
    shape, held = geometry_of(kind, num_items, num_columns, width), held_bytes(kind, num_items, num_columns, width)
    match kind:
        case "gpu_flat16":
            return held
        case "gpu_ivfpq":  # lists grow by doubling, and k-means holds its sample
            return held + num_items * (shape.codes + 4) + 2 * 4 * shape.width * SAMPLES * shape.lists
        case "gpu_cagra":  # the first graph with the detours of each link, and the codes that it is built with
            return held + num_items * (5 * BUILD_DEGREE + shape.width)


def exact_bytes(num_items: int, num_columns: int) -> int | None:
    """What the exact search on a GPU takes: all rows in float32 and as int8 codes. None when it does not take such wide rows."""
    if num_columns > _EXACT_MAX_WIDTH:
        return None
    head = max(1 << num_columns.bit_length() - 1, _EXACT_ALIGNED)
    tail = max(1 << (num_columns - head - 1).bit_length(), _EXACT_ALIGNED) if num_columns > head else 0
    return num_items * (_EXACT_BYTES * (head + tail) + 6)  # and a scale and the norm of a residual


def fitting_kind(num_items: int, num_columns: int, width: int, free_bytes: int, exact: Kind) -> tuple[Kind, str] | None:
    """The kind that `auto` takes for a GPU with `free_bytes`, and why; None when none fits.

    It is the `exact` kind if that fits, because it cannot miss an item. A server needs room for two releases beside the model,
    so an index fits if two of them take no more than half of the memory. The float32 vectors are counted: the model reads them,
    and the exact search shares them. The graph of CAGRA takes more than the exact search and is never taken.
    """
    room = int(_SHARE_FOR_INDEX * free_bytes / _RELEASES_AT_ONCE)
    needed, vectors = exact_bytes(num_items, num_columns), 4 * num_items * num_columns
    if needed is not None and needed <= room:
        return exact, f"two of {gib(needed)} fit into half of the GPU's {gib(free_bytes)}"
    what = "vectors too wide for the exact search" if needed is None else f"exact, it would take {gib(needed)}"
    kinds: tuple[GpuKind, ...] = ("gpu_flat16", "gpu_ivfpq") if num_columns - width <= MAX_TAIL else ("gpu_flat16",)
    for kind in kinds:
        held = vectors + held_bytes(kind, num_items, num_columns, width)
        if held <= room and built_bytes(kind, num_items, num_columns, width) <= free_bytes:
            return kind, f"{what}; two of {gib(held)} fit into half of the GPU's {gib(free_bytes)}"
    return None


def gib(num_bytes: int) -> str:
    """Bytes as GiB."""
    return f"{num_bytes / 2**30:,.1f} GiB"
