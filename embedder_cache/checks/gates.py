"""The gates that a release must pass before it is served. Each number is written to gates.json beside its limit.

N: items, V: vector width, D: its embedding columns, Q: requests
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from embedder_cache.catalogue.column_types import changed_columns
from embedder_cache.catalogue.opened_release import OpenedRelease
from embedder_cache.checks.index_choice import IndexReport
from twotower.artefacts.bundle import Bundle
from twotower.artefacts.release import GATES, NOT_PUBLISHED
from twotower.data.features import DAY_MS, Ints, rows_of
from twotower.data.schema import ItemColumns
from twotower.errors import ArtefactError, DataError
from twotower.model.catalogue import BATCH_ITEMS
from twotower.model.golden import GoldenQuery, golden_request
from twotower.model.scoring import answer
from twotower.progress import say


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of the gates, which an operator may set as TOML. Each is a share except days, milliseconds and bytes."""

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
    missing_rise: float = 0.20  # at most; how far the share of items without a value may rise, in the column where it rises most
    log_back_days: float = 1.0  # at most; how far the log may end before the served release's
    log_age_days: float = 7.0  # at most; age of the last event, unless the served release's log was as old when it was published
    max_bytes: int | None = None  # of the release on disk; None is no limit

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name in ("search_p99_ms", "log_back_days", "log_age_days", "max_bytes"):
                if (size := getattr(self, name)) is not None and not size > 0:
                    raise ValueError(f"{name} is {size}: give a number above 0")
            elif name == "item_count_change" and self.item_count_change > 1:
                continue  # a catalogue may grow to many times its size
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
    unit: Literal["share", "ms", "bytes", "days", "columns"] = "share"
    why: str | None = None  # what the number comes from: the column, the rows

    @property
    def passed(self) -> bool:
        """Whether the number is within its limit. NaN never is."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    def __str__(self) -> str:
        limit = f"at least {self._put(self.at_least)}" if self.at_least is not None else f"at most {self._put(self.at_most)}"
        base = "" if self.base is None else f" (compared with {self._put(self.base)})"
        why = "" if self.why is None else f": {self.why}"
        return f"{self.name.replace('_', ' ')} is {self._put(self.value)}, must be {limit}{base}{why}"

    def _put(self, number: float | None) -> str:
        if self.unit == "columns":
            return f"{number:.0f}"
        if self.unit == "share":
            return f"{number:.1%}"
        return f"{number:,.{1 if self.unit in ('ms', 'days') else 0}f} {self.unit}"


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
    not_finite = zero = 0
    for begin in range(0, len(vectors_NV), BATCH_ITEMS):  # few enough rows that they are still in the cache when read again
        part_BV = np.asarray(vectors_NV[begin : begin + BATCH_ITEMS])
        not_finite += int((~np.isfinite(part_BV)).any(1).sum())
        zero += int((~part_BV[:, :width].any(1)).sum())
    if not_finite or zero:
        raise DataError(f"{NOT_PUBLISHED}{not_finite} item vectors are not finite and {zero} are zero. Train the bundle again.")
    if not all(np.isfinite(query.top_scores).all() for query in golden):
        raise DataError(f"{NOT_PUBLISHED}the contextualizer's scores are not finite. Train the bundle again.")


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
    named = [item_id for query in promised for item_id in (*query.item_ids, *query.top_item_ids)]
    rows = dict(zip(named, rows_of(pa.array(named, item_ids.type), item_ids), strict=True))  # all at once: a pass over all ids
    for query in promised:
        known = np.array([rows[item_id] for item_id in query.item_ids], np.int64)
        here = known >= 0
        request = golden_request(model, known[here], np.array(query.times_ms, np.int64)[here], query.now_ms)
        scores_N = answer(bundle.towers.contextualizer, model, vectors, [request]).dense_scores(vectors)[0]
        wanted = np.array([rows[item_id] for item_id in query.top_item_ids], np.int64)
        wanted = wanted[wanted >= 0]
        if len(wanted):
            top = scores_N.topk(min(len(query.top_item_ids), len(vectors))).indices.numpy()
            shares.append(np.isin(wanted, top).mean())
    return float(np.mean(shares)) if shares else 0.0


def index_gates(index: IndexReport, served: OpenedRelease | None, limits: Limits) -> list[Gate]:
    """Recall and search time of the new index, beside those measured for the release `served` now if its kind is the same.

    Another kind is slower or finds less by its nature, and choosing it was reason enough.
    """
    kind = None if served is None else kind_measured(served.path)
    measured = last_measured(served.path) if served is not None and kind == index.kind else {}
    why = None if kind in (None, index.kind) else f"{index.kind} ({index.why}) is not compared with {kind}, which was served"
    recall, p99_ms = measured.get("recall100"), measured.get("search_p99_ms")
    least = limits.recall100 if recall is None else max(limits.recall100, recall - limits.recall100_drop)
    most = None if p99_ms is None else max(limits.search_p99_ms, (1 + limits.search_p99_rise) * p99_ms)
    return [
        Gate(name="recall100", value=index.recall, at_least=least, base=recall, why=why),
        Gate(name="search_p99_ms", value=index.search_p99_ms, at_most=most, base=p99_ms, unit="ms", why=why),
    ]


def log_gates(as_of_ms: int, now_ms: int, served: OpenedRelease | None, limits: Limits) -> list[Gate]:
    """Whether the log, whose last event is of `as_of_ms`, ends where it should: not before the served one's, and not long ago.

    A log of the past, such as a public data set, is as old on every night. So the age has a limit only where the served
    release's log was younger than that limit when it was published.
    """
    age = Gate(name="log_age_days", value=(now_ms - as_of_ms) / DAY_MS, unit="days")
    if served is None:
        return [age]
    before = last_measured(served.path).get("log_age_days")
    if before is not None and before <= limits.log_age_days:
        age = msgspec.structs.replace(age, at_most=limits.log_age_days, base=before, why=f"its last event is of {_day(as_of_ms)}")
    try:
        served_as_of_ms = served.info.popularity_as_of_ms
    except (ArtefactError, OSError):
        served_as_of_ms = None
    if served_as_of_ms is None:
        return [age]
    why = f"it ends on {_day(as_of_ms)}, the log of the served release on {_day(served_as_of_ms)}"
    back = max(0.0, (served_as_of_ms - as_of_ms) / DAY_MS)
    return [age, Gate(name="log_back_days", value=back, at_most=limits.log_back_days, unit="days", why=why)]


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def column_gates(items: pa.Table, columns: ItemColumns, served: OpenedRelease | None, limits: Limits) -> list[Gate]:
    """Whether the columns of the new item table are as in the served one: their types, and how often a value is missing."""
    if served is None:
        return []
    try:
        before = served.items
        changed = changed_columns(items.schema, before.schema, columns.features)
        rises = {
            name: (missing_share(items.column(name)), missing_share(before.column(name)))
            for name in columns.features
            if name in before.column_names
        }
    except (ArtefactError, OSError, pa.ArrowInvalid):
        return []  # that it cannot be read is said by `check_gates`
    why = "; ".join(changed) or None
    gates = [Gate(name="columns_of_another_type", value=len(changed), at_most=0, unit="columns", why=why)]
    if rises:
        name = max(rises, key=lambda name: rises[name][0] - rises[name][1])
        now, then = rises[name]
        why = f"{name!r} is missing in {now:.1%} of the items, in the served release in {then:.1%}"
        gates.append(Gate(name="missing_rise", value=max(now - then, 0.0), at_most=limits.missing_rise, why=why))
    return gates


def missing_share(column: pa.ChunkedArray) -> float:
    """Share of the items that have no value; NaN is none."""
    return float(pc.mean(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))).as_py())


def kind_measured(release: Path) -> str | None:
    """The kind of index that a release's gates.json describes; None when the file cannot be read."""
    try:
        return msgspec.json.decode((release / GATES).read_bytes(), type=_Report).index.kind
    except (OSError, msgspec.DecodeError):
        return None


def last_measured(release: Path) -> dict[str, float]:
    """The numbers of a release's gates.json by name; empty when the file cannot be read."""
    try:
        rows = msgspec.json.decode((release / GATES).read_bytes(), type=_Report).gates
    except (OSError, msgspec.DecodeError):
        return {}
    return {gate.name: gate.value for gate in rows}


class _Report(msgspec.Struct):
    gates: list[Gate]
    index: IndexReport


def rejected_gate(num_rejected: int, num_rows: int, limits: Limits, why: str | None = None) -> Gate:
    """The gate on the share of rows that cannot be embedded and are left out; `why` names the most frequent reason."""
    return Gate(name="rejected", value=num_rejected / num_rows, at_most=limits.rejected, why=why)


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
        new_BV, old_BV = np.take(vectors_NV, part, 0), np.take(old_vectors_NV, old_rows_N[part], 0)
        same += int((new_BV[:, :width].view(np.uint32) == old_BV[:, :width].view(np.uint32)).all(1).sum())
    return Gate(name="unchanged_bit_equal", value=same / len(rows) if len(rows) else 1.0, at_least=1.0)


def require(gates: Sequence[Gate], forced: str | None) -> None:
    """DataError when a gate fails, unless `forced` gives the operator's reason to publish anyway."""
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed and forced is None:
        raise DataError(f"{NOT_PUBLISHED}{'; '.join(failed)}. Look at the data, or publish it anyway with --force --reason WHY.")


def report(gates: Sequence[Gate], forced: str | None, num_items: int, index: IndexReport) -> bytes:
    """The content of gates.json."""
    rows = [{**msgspec.to_builtins(gate), "passed": gate.passed} for gate in gates]
    content = {"passed": all(gate.passed for gate in gates), "forced": forced, "items": num_items, "index": index, "gates": rows}
    return msgspec.json.format(msgspec.json.encode(content))
