"""What a release must be before it is served. Every number goes into gates.json beside the limit it was held to.

N: items, V: vector width
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from embedder_cache.indexing import IndexReport
from twotower.bundle import Bundle, read_table
from twotower.errors import ArtefactError, DataError
from twotower.golden import GoldenQuery, golden_request
from twotower.index.kinds import EXACT
from twotower.progress import say
from twotower.release import GOLDEN, ITEMS
from twotower.scoring import answer


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set, as TOML. Each is a share."""

    item_count_change: float = 0.10  # at most, of the items of the release that is served now
    recent_coverage: float = 0.95  # at least, of recent events, the items of the catalogue
    golden_overlap: float = 0.10  # at least, of the answers of the release that is served now, among those of the new one
    index_recall: float = 0.95  # at least, of the exact best 100, those that an approximate index finds

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One number and its limit."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the number keeps within its limit; NaN never does."""
        return (self.at_least is None or self.value >= self.at_least) and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        limit = f"at least {self.at_least:.1%}" if self.at_least is not None else f"at most {self.at_most:.1%}"
        return f"{self.name.replace('_', ' ')} is {self.value:.1%}, must be {limit}"


def load_limits(path: Path | None) -> Limits:
    """Limits of a TOML file, or the defaults without one; DataError names the offending key."""
    if path is None:
        return Limits()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Limits)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def refuse_nonsense(vectors_NV: npt.NDArray[np.float32], width: int, golden: Sequence[GoldenQuery]) -> None:
    """DataError for a release that could not answer at all; nothing forces it. The first `width` columns are the embedding."""
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
    served: Path | None,
    limits: Limits,
) -> list[Gate]:
    """The new release against its limits and, where there is one, against the release `served` now.

    `recent_coverage` is None without events. A served release that cannot be read compares with nothing, and that is said.
    """
    gates = []
    if recent_coverage is not None:
        gates.append(Gate(name="recent_coverage", value=recent_coverage, at_least=limits.recent_coverage))
    if served is not None:
        try:
            num_served = len(read_table(served / ITEMS))
            promised = msgspec.json.decode((served / GOLDEN).read_bytes(), type=list[GoldenQuery])
        except (ArtefactError, OSError, msgspec.DecodeError, pa.ArrowInvalid) as error:
            say(f"  the release served now cannot be read, so nothing is compared with it: {error}")
            return gates
        change = abs(len(item_ids) / num_served - 1)
        overlap = golden_overlap(bundle, item_ids, vectors_NV, promised)
        gates.append(Gate(name="item_count_change", value=change, at_most=limits.item_count_change))
        gates.append(Gate(name="golden_overlap", value=overlap, at_least=limits.golden_overlap))
    return gates


def index_gates(index: IndexReport, limits: Limits) -> list[Gate]:
    """What an approximate index is held to; an exact one has nothing to prove."""
    if index.kind in EXACT:
        return []
    return [Gate(name="index_recall", value=index.recall, at_least=limits.index_recall)]


def golden_overlap(
    bundle: Bundle, item_ids: pa.Array, vectors_NV: npt.NDArray[np.float32], promised: Sequence[GoldenQuery]
) -> float:
    """Mean share of the promised answers that the new release gives too, each as many deep; items that are gone do not count."""
    model, vectors = bundle.towers.config.model, torch.from_numpy(vectors_NV)
    shares = []
    for query in promised:
        known = rows_of(query.item_ids, item_ids)
        here = known >= 0
        request = golden_request(model, known[here], np.array(query.times_ms, np.int64)[here], query.now_ms)
        scores_N = answer(bundle.towers.contextualizer, model, vectors, [request]).dense_scores(vectors)[0]
        wanted = rows_of(query.top_item_ids, item_ids)
        wanted = wanted[wanted >= 0]
        if len(wanted):
            top = scores_N.topk(min(len(query.top_item_ids), len(vectors))).indices.numpy()
            shares.append(np.isin(wanted, top).mean())
    return float(np.mean(shares)) if shares else 0.0


def rows_of(wanted: Sequence[str], item_ids: pa.Array) -> npt.NDArray[np.int64]:
    """Catalogue rows of ids; -1 for those that are not in it."""
    rows = pc.index_in(pa.array(wanted, item_ids.type), item_ids)
    found: npt.NDArray[np.int64] = rows.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def require(gates: Sequence[Gate], forced: str | None) -> None:
    """DataError when a gate is not passed, unless the operator gave a reason to publish all the same."""
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed and forced is None:
        raise DataError(
            f"not published: {'; '.join(failed)}. Look at the catalogue, or publish all the same with --force --reason WHY."
        )


def report(gates: Sequence[Gate], forced: str | None, num_items: int, index: IndexReport) -> bytes:
    """gates.json."""
    rows = [{**msgspec.to_builtins(gate), "passed": gate.passed} for gate in gates]
    content = {"passed": all(gate.passed for gate in gates), "forced": forced, "items": num_items, "index": index, "gates": rows}
    return msgspec.json.format(msgspec.json.encode(content))
