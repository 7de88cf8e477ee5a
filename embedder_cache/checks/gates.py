"""The gates that a release must pass before it is served. Each number is written to gates.json beside its limit.

N: items, V: vector width, D: its embedding columns, Q: requests
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from embedder_cache.catalogue.opened_release import OpenedRelease
from embedder_cache.checks.index_choice import IndexReport
from twotower.artefacts.bundle import Bundle
from twotower.artefacts.release import GATES
from twotower.data.features import Ints, rows_of
from twotower.errors import ArtefactError, DataError
from twotower.model.catalogue import BATCH_ITEMS
from twotower.model.golden import GoldenQuery, golden_request
from twotower.model.scoring import answer
from twotower.progress import say


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of the gates, which an operator may set as TOML. Each is a share except the last two."""

    item_count_change: float = 0.10  # at most; relative to the number of items of the served release
    rejected: float = 0.01  # at most; share of the catalogue's rows that cannot be embedded
    recent_coverage: float = 0.95  # at least; share of recent events whose item is in the catalogue
    golden_overlap: float = 0.10  # at least; share of the served release's golden answers that the new one gives too
    holdout: float = 0.98  # at least; recall and NDCG on real requests as a share of the served release's, less the noise
    overlap20: float = 0.10  # at least; share of the served release's top 20 on real requests that is in the new one's
    overlap20_same_bundle: float = 0.80  # at least; the same share where both releases were made from one bundle
    coverage20: float = 0.50  # at least; catalogue coverage of the top 20 as a share of the served release's
    recall100: float = 0.95  # at least; share of the exact top 100 of real requests that the index finds
    recall100_drop: float = 0.01  # at most; how far recall100 may fall below the served release's
    search_p99_rise: float = 0.20  # at most; how far the p99 of a search may rise, relative to the served release's
    search_p99_ms: float = 5.0  # a p99 up to this is never refused, because machines are noisy
    max_bytes: int | None = None  # of the release on disk; None is no limit

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name in ("search_p99_ms", "max_bytes"):
                if (size := getattr(self, name)) is not None and not size > 0:
                    raise ValueError(f"{name} is {size}: give a number above 0")
            elif not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One number and its limit. Without a limit it is only recorded, so that later releases can be compared with it."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    base: float | None = None  # the number that the limit derives from: the served release's or popularity's
    noise: float | None = None  # how far the limit was loosened, because so large a difference may be chance
    unit: Literal["share", "ms", "bytes"] = "share"

    @property
    def passed(self) -> bool:
        """Whether the number is within its limit. NaN never is."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    def __str__(self) -> str:
        limit = f"at least {self._put(self.at_least)}" if self.at_least is not None else f"at most {self._put(self.at_most)}"
        base = "" if self.base is None else f" (compared with {self._put(self.base)})"
        return f"{self.name.replace('_', ' ')} is {self._put(self.value)}, must be {limit}{base}"

    def _put(self, number: float | None) -> str:
        if self.unit == "share":
            return f"{number:.1%}"
        return f"{number:,.{1 if self.unit == 'ms' else 0}f} {self.unit}"


def load_limits(path: Path | None) -> Limits:
    """Limits of a TOML file, or the defaults without one; DataError names the offending key."""
    if path is None:
        return Limits()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Limits)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def refuse_nonsense(vectors_NV: npt.NDArray[np.float32], width: int, golden: Sequence[GoldenQuery]) -> None:
    """DataError for vectors or scores that cannot rank anything, forced or not. The first `width` columns are the embedding."""
    not_finite = int((~np.isfinite(vectors_NV)).any(1).sum())
    zero = int((~vectors_NV[:, :width].any(1)).sum())
    if not_finite or zero:
        raise DataError(f"not published: {not_finite} item vectors are not finite and {zero} are zero. Train the bundle again.")
    if not all(np.isfinite(query.top_scores).all() for query in golden):
        raise DataError("not published: the contextualizer's scores are not finite. Train the bundle again.")


def check_gates(
    bundle: Bundle,
    item_ids: pa.Array,
    vectors_NV: npt.NDArray[np.float32],
    recent_coverage: float | None,
    served: OpenedRelease | None,
    limits: Limits,
) -> list[Gate]:
    """Compare the new release with its limits and, where there is one, with the release `served` now.

    `recent_coverage` is None without events. Where the served release cannot be read, nothing is compared with it; that is said.
    """
    gates = []
    if recent_coverage is not None:
        gates.append(Gate(name="recent_coverage", value=recent_coverage, at_least=limits.recent_coverage))
    if served is not None:
        try:
            num_served, promised = len(served.items), served.golden
        except (ArtefactError, OSError, msgspec.DecodeError, pa.ArrowInvalid) as error:
            say(f"  the release served now cannot be read, so nothing is compared with it: {error}")
            return gates
        change = abs(len(item_ids) / num_served - 1)
        overlap = golden_overlap(bundle, item_ids, vectors_NV, promised)
        gates.append(Gate(name="item_count_change", value=change, at_most=limits.item_count_change))
        gates.append(Gate(name="golden_overlap", value=overlap, at_least=limits.golden_overlap))
    return gates


def golden_overlap(
    bundle: Bundle, item_ids: pa.Array, vectors_NV: npt.NDArray[np.float32], promised: Sequence[GoldenQuery]
) -> float:
    """Mean share of the promised answers that the new release gives too, at the same depth. Removed items do not count."""
    model, vectors = bundle.towers.config.model, torch.from_numpy(vectors_NV)
    shares = []
    for query in promised:
        known = rows_of(pa.array(query.item_ids, item_ids.type), item_ids)
        here = known >= 0
        request = golden_request(model, known[here], np.array(query.times_ms, np.int64)[here], query.now_ms)
        scores_N = answer(bundle.towers.contextualizer, model, vectors, [request]).dense_scores(vectors)[0]
        wanted = rows_of(pa.array(query.top_item_ids, item_ids.type), item_ids)
        wanted = wanted[wanted >= 0]
        if len(wanted):
            top = scores_N.topk(min(len(query.top_item_ids), len(vectors))).indices.numpy()
            shares.append(np.isin(wanted, top).mean())
    return float(np.mean(shares)) if shares else 0.0


def index_gates(index: IndexReport, served: OpenedRelease | None, limits: Limits) -> list[Gate]:
    """Recall and search time of the new index, beside those measured for the release `served` now."""
    measured = {} if served is None else last_measured(served.path)
    recall, p99_ms = measured.get("recall100"), measured.get("search_p99_ms")
    least = limits.recall100 if recall is None else max(limits.recall100, recall - limits.recall100_drop)
    most = None if p99_ms is None else max(limits.search_p99_ms, (1 + limits.search_p99_rise) * p99_ms)
    return [
        Gate(name="recall100", value=index.recall, at_least=least, base=recall),
        Gate(name="search_p99_ms", value=index.search_p99_ms, at_most=most, base=p99_ms, unit="ms"),
    ]


def last_measured(release: Path) -> dict[str, float]:
    """The numbers of a release's gates.json by name; empty when the file cannot be read."""
    try:
        rows = msgspec.json.decode((release / GATES).read_bytes(), type=_Report).gates
    except (OSError, msgspec.DecodeError):
        return {}
    return {gate.name: gate.value for gate in rows}


class _Report(msgspec.Struct):
    gates: list[Gate]


def rejected_gate(num_rejected: int, num_rows: int, limits: Limits) -> Gate:
    """The gate on the share of rows that cannot be embedded and are left out."""
    return Gate(name="rejected", value=num_rejected / num_rows, at_most=limits.rejected)


def size_gate(directory: Path, limits: Limits) -> Gate:
    """The gate on the size of a release: the bytes of all its files."""
    num_bytes = sum(file.stat().st_size for file in directory.iterdir())
    return Gate(name="bytes", value=num_bytes, at_most=limits.max_bytes, unit="bytes")


def unchanged_gate(
    vectors_NV: npt.NDArray[np.float32],
    old_vectors_NV: npt.NDArray[np.float32],
    width: int,
    old_rows_N: Ints,
) -> Gate:
    """The gate on unchanged items: the share whose embedding, the first `width` columns, equals the old one bit for bit.

    `old_rows_N` is -1 where an item is new or has changed. Both releases must be of one vector space. 1 without such items.
    """
    rows, same = np.flatnonzero(old_rows_N >= 0), 0
    for begin in range(0, len(rows), BATCH_ITEMS):
        part = rows[begin : begin + BATCH_ITEMS]
        new_ND, old_ND = vectors_NV[part, :width], old_vectors_NV[old_rows_N[part], :width]
        same += int((new_ND.view(np.uint32) == old_ND.view(np.uint32)).all(1).sum())
    return Gate(name="unchanged_bit_equal", value=same / len(rows) if len(rows) else 1.0, at_least=1.0)


def require(gates: Sequence[Gate], forced: str | None) -> None:
    """DataError when a gate fails, unless `forced` gives the operator's reason to publish anyway."""
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed and forced is None:
        raise DataError(
            f"not published: {'; '.join(failed)}. Look at the catalogue, or publish it anyway with --force --reason WHY."
        )


def report(gates: Sequence[Gate], forced: str | None, num_items: int, index: IndexReport) -> bytes:
    """The content of gates.json."""
    rows = [{**msgspec.to_builtins(gate), "passed": gate.passed} for gate in gates]
    content = {"passed": all(gate.passed for gate in gates), "forced": forced, "items": num_items, "index": index, "gates": rows}
    return msgspec.json.format(msgspec.json.encode(content))
