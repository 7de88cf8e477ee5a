"""The bytes of a training run in fp32, and over how many devices they must be split.

Scores never exist as a whole: the losses make them tile by tile and drop them. What candidates cost is therefore their vectors,
and the popularity of every day beside them. `twotower train` splits weights (`--sharding fsdp`); every rank holds all vectors.

K: candidates, Q: queries
"""

import math
import re

import msgspec

from twotower.planning.flops import Composition
from twotower.planning.sizes import Sizes, contextualizer_parameters, embedder_parameters

FLOAT = 4
STATES = 4  # of a weight: itself, its gradient, and two moments of AdamW
SNAPSHOTS = 365  # of popularity, one a day for a year; `twotower train` keeps at most 400
GATHERED = 1 << 16  # candidates of a pool whose vectors a GPU copies at once
USABLE = 0.9  # of a device's memory; the rest is the allocator's and the libraries'
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class MemoryNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a run, and the devices that they need."""

    model: float  # weights, gradients and two moments
    activations: float  # kept for the backward pass
    vectors: float  # of all items, or of the candidates where the number of items is not known
    popularity: float  # of every item on every day of a year
    tiles: float  # scores in use, and the candidates copied for them
    scores_if_held: float  # what a matrix of all scores of a step would take; it is never made
    total: float
    available: float | None  # of one device, as given
    shards: int | None  # devices over which the run must be split; 1 where it fits
    binds: str  # what does not fit: `candidates`, `model`, or nothing


def memory_needs(
    sizes: Sizes, batch: Composition, candidates: float, items: float | None, available: float | None
) -> MemoryNeeds:
    """The needs of stage 2, which holds the catalogue. ValueError where no number of devices helps."""
    rows = candidates if items is None else items
    model = float(FLOAT * STATES * (contextualizer_parameters(sizes) + embedder_parameters(sizes)))
    activations = batch.positions * activation_bytes(sizes)
    vectors, popularity = FLOAT * sizes.width * rows, FLOAT * sizes.num_popularity * SNAPSHOTS * rows
    tiles = FLOAT * (min(GATHERED, candidates) * sizes.width + 2 * batch.queries * sizes.width)
    shards, binds = (None, "") if available is None else _shards(model, vectors + popularity, activations + tiles, available)
    return MemoryNeeds(
        model=model,
        activations=activations,
        vectors=vectors,
        popularity=popularity,
        tiles=tiles,
        scores_if_held=FLOAT * batch.queries * candidates,
        total=model + activations + vectors + popularity + tiles,
        available=available,
        shards=shards,
        binds=binds,
    )


def activation_bytes(sizes: Sizes) -> float:
    """What the blocks keep of one position for the backward pass, measured on a CPU by what autograd saves."""
    keys = sizes.num_kv_heads * sizes.head_width
    return FLOAT * sizes.num_layers * (11.3 * sizes.width + 3 * keys + 4 * sizes.ffn_width)


def _shards(model: float, candidates: float, of_every_device: float, available: float) -> tuple[int, str]:
    free = USABLE * available - of_every_device
    if free <= 0:
        raise ValueError(
            f"a step needs {told(of_every_device)} for its activations alone, and {told(available)} of memory leave "
            f"{told(USABLE * available)}: give more memory or a smaller budget"
        )
    if model + candidates <= free:
        return 1, ""
    if model < free:
        return math.ceil(candidates / (free - model)), "candidates"
    return math.ceil((model + candidates) / free), "model"


def to_bytes(text: str) -> float:
    """The bytes of 80GB, 80GiB or 8e10; ValueError for other text."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    try:
        size = float(found[1]) * UNITS[(found[2] or "").lower()] if found else 0.0
    except ValueError:
        size = 0.0
    if not 0 < size < math.inf:
        raise ValueError(f"{text!r} is no size of memory: give one such as 80GB")
    return size


def told(size: float) -> str:
    """Three digits and a unit, such as 1.83 GB."""
    for number, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= number:
            return f"{size / number:.3g} {unit}"
    return f"{size:.3g} bytes"
