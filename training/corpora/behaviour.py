"""Synthetic behaviour whose law is known: as many events as wanted, with dials, and a bound that no model's loss can pass.

A user has four favourite kinds of items. The next event repeats one of the user's last sixteen events with probability
`repeat_rate`. Otherwise its kind is that of the last event with probability `stay_rate`, else one of the favourites, and
within the kind items are drawn by a Zipf law. Drift moves every kind's items up its ranking, and the first one to its end.

So the probability of every event, given the user's favourites, is known. The mean of its negative logarithm is the least loss
that any model can have, because a model must guess the favourites.

U: users of a block, L: events of a user, H: remembered events, N: items, G: kinds
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.artefacts.manifest import staging
from twotower.data.features import DAY_MS, Floats, Ints
from twotower.data.schema import EventColumns, ItemColumns, Schema, Split, dump_schema

Array = npt.NDArray[np.float64]

START = datetime(2025, 1, 1, tzinfo=UTC)
REMEMBERED = 16  # events that a repeat is drawn from
FAVOURITES = np.array([0.5, 0.25, 0.15, 0.1])  # how much a user likes each favourite kind
EVENT_TYPES = ("view", "cart", "purchase")
BLOCK_USERS = 5_000
SESSION_EVENTS, WITHIN_MINUTES = 8, 2.0  # mean length of a session, mean minutes between its events
VALIDATION, TEST = 0.8, 0.9  # of the time
_MINUTE_MS = 60_000
_LOOKS = ("fresh", "dark", "light", "organic", "large", "small", "sweet", "salted", "plain", "smoked", "raw", "fine")
_SYLLABLES = ("ba", "ko", "li", "mu", "ne", "po", "ra", "si", "tu", "ve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dials:
    """What the generated behaviour is like."""

    num_users: int = 20_000
    events_per_user: int = 100
    num_items: int = 5_000
    num_kinds: int = 100
    zipf: float = 1.0  # exponent of the items' popularity within their kind
    repeat_rate: float = 0.2
    stay_rate: float = 0.4
    drift: float = 0.0  # share of a kind's ranking that its items move in 30 days
    type_shares: tuple[float, ...] = (0.8, 0.12, 0.08)  # of EVENT_TYPES
    days: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_users, self.events_per_user, self.days) < 1 or not 1 <= self.num_kinds <= self.num_items:
            raise ValueError("numbers of users, events, days and kinds must be at least 1, and items at least as many as kinds")
        if not (0 <= self.repeat_rate < 1 and 0 <= self.stay_rate < 1 and self.zipf >= 0 and self.drift >= 0):
            raise ValueError("rates must be in [0, 1), and zipf and drift at least 0")
        if len(self.type_shares) != len(EVENT_TYPES) or abs(sum(self.type_shares) - 1) > 1e-9:
            raise ValueError(f"give a share for each of {', '.join(EVENT_TYPES)} that add up to 1")


@dataclass(frozen=True, slots=True)
class Kinds:
    """The items of each kind, and their weights by place in its ranking. Items of a kind have neighbouring rows."""

    kind_N: Ints
    first_G1: Ints  # row of the first item of each kind, and the end
    upto_N1: Array  # sum of the weights of all places before
    share_G: Array  # of all weights

    def places_moved(self, days_U: Array, kind_U: Ints, drift: float) -> Ints:
        """How far the ranking of a kind has moved at some moment."""
        return (drift * days_U / 30 * self.size(kind_U)).astype(np.int64)

    def size(self, kind_U: Ints) -> Ints:
        """Items of a kind."""
        sizes: Ints = self.first_G1[kind_U + 1] - self.first_G1[kind_U]
        return sizes

    def draw(self, uniform_U: Array, kind_U: Ints, moved_U: Ints) -> Ints:
        """An item of each kind by the weights of its ranking as it is then."""
        first_U = self.first_G1[kind_U]
        low_U, high_U = self.upto_N1[first_U], self.upto_N1[self.first_G1[kind_U + 1]]
        place_U = np.searchsorted(self.upto_N1, low_U + uniform_U * (high_U - low_U), "right") - 1
        place_U = np.clip(place_U, first_U, self.first_G1[kind_U + 1] - 1) - first_U
        rows: Ints = first_U + (place_U + moved_U) % self.size(kind_U)
        return rows

    def probability(self, row_U: Ints, moved_U: Ints) -> Array:
        """Of each item, given its kind."""
        kind_U = self.kind_N[row_U]
        first_U = self.first_G1[kind_U]
        place_U = first_U + (row_U - first_U - moved_U) % self.size(kind_U)
        all_U = self.upto_N1[self.first_G1[kind_U + 1]] - self.upto_N1[first_U]
        result: Array = (self.upto_N1[place_U + 1] - self.upto_N1[place_U]) / all_U
        return result


def prepare(dials: Dials, out: Path) -> tuple[int, int]:
    """Write events.parquet, items.parquet, schema.toml and truth.json; return the numbers of events and items."""
    rng = np.random.default_rng(dials.seed)
    kinds = make_kinds(dials, rng)
    out.mkdir(parents=True, exist_ok=True)
    with staging(out):
        pass  # so that a directory without write permission is found before the work
    pq.write_table(items_of(dials, kinds, rng), out / "items.parquet")
    schema = schema_of(dials)
    bounds_ms = [_ms(START) + round(share * dials.days * DAY_MS) for share in (VALIDATION, TEST)]
    sums, counts = np.zeros(3), np.zeros(3)
    with pq.ParquetWriter(out / "events.parquet", _table(_empty()).schema, compression="zstd") as writer:
        for block in blocks(dials, kinds):
            writer.write_table(_table(block))
            part_E = np.searchsorted(bounds_ms, block.times_ms_E, "right")
            sums += np.bincount(part_E, block.nats_E, minlength=3)
            counts += np.bincount(part_E, minlength=3)
    means = (sums / np.maximum(counts, 1)).tolist()
    least = dict(zip(("train", "validation", "test"), means, strict=True))
    truth = {"dials": asdict(dials), "least_loss_nats": least}
    (out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    (out / "schema.toml").write_text(dump_schema(schema))
    return int(counts.sum()), dials.num_items


@dataclass(frozen=True, slots=True)
class Block:
    """Events of some users, one user after the other, each in the order of time."""

    users_E: Ints
    rows_E: Ints
    times_ms_E: Ints
    types_E: npt.NDArray[np.int8]
    prices_E: Floats
    nats_E: Array  # -log of the probability of each event's item


def make_kinds(dials: Dials, rng: np.random.Generator) -> Kinds:
    """Items in kinds of about equal size, whose weights fall by the Zipf law over the whole catalogue."""
    kind_N = np.sort(np.append(np.arange(dials.num_kinds), rng.integers(0, dials.num_kinds, dials.num_items - dials.num_kinds)))
    rank_N = rng.permutation(dials.num_items)
    order_N = np.lexsort((rank_N, kind_N))
    weight_N = (1.0 + rank_N[order_N]) ** -dials.zipf
    upto_N1 = np.append(0.0, np.cumsum(weight_N))
    first_G1 = np.searchsorted(kind_N, np.arange(dials.num_kinds + 1))
    share_G = np.diff(upto_N1[first_G1])
    return Kinds(kind_N, first_G1, upto_N1, share_G / share_G.sum())


def blocks(dials: Dials, kinds: Kinds) -> Iterator[Block]:
    """The events of all users, BLOCK_USERS at a time. Threads draw them ahead, each block from a seed of its own."""

    def draw(begin: int) -> Block:
        users_U = np.arange(begin, min(begin + BLOCK_USERS, dials.num_users))
        return block_of(dials, kinds, np.random.default_rng((dials.seed, begin)), users_U)

    num_threads = len(os.sched_getaffinity(0))
    begins = iter(range(0, dials.num_users, BLOCK_USERS))
    with ThreadPoolExecutor(num_threads, "behaviour") as threads:
        ahead = deque(threads.submit(draw, begin) for begin in islice(begins, num_threads))
        while ahead:
            block = ahead.popleft().result()
            ahead.extend(threads.submit(draw, begin) for begin in islice(begins, 1))
            yield block


def block_of(dials: Dials, kinds: Kinds, rng: np.random.Generator, users_U: Ints) -> Block:
    """The events of some users."""
    size, length = len(users_U), dials.events_per_user
    times_UL = _times(dials, rng, size)
    favourites_U4 = rng.choice(dials.num_kinds, (size, len(FAVOURITES)), p=kinds.share_G)
    rows_LU, nats_LU = np.empty((length, size), np.int32), np.empty((length, size))
    memory_UH = np.full((size, REMEMBERED), -1, np.int32)
    everyone, last_kind_U = np.arange(size), np.zeros(size, np.int64)
    for event in range(length):
        known = min(event, REMEMBERED)
        repeat_rate, stay_rate = (dials.repeat_rate, dials.stay_rate) if event else (0.0, 0.0)
        coins_4U = rng.random((4, size))
        liked_U = favourites_U4[everyone, np.searchsorted(np.cumsum(FAVOURITES[:-1]), coins_4U[0], "right")]
        kind_U = np.where(coins_4U[1] < stay_rate, last_kind_U, liked_U)
        days_U = times_UL[:, event] / DAY_MS
        fresh_U = kinds.draw(coins_4U[2], kind_U, kinds.places_moved(days_U, kind_U, dials.drift))
        repeats_U = coins_4U[3] < repeat_rate
        again_U = memory_UH[everyone, rng.integers(0, max(known, 1), size)]
        row_U = np.where(repeats_U, again_U, fresh_U)
        of_item_U = kinds.kind_N[row_U]
        liking_U = ((favourites_U4 == of_item_U[:, None]) * FAVOURITES).sum(1)
        of_kind_U = stay_rate * (last_kind_U == of_item_U) + (1 - stay_rate) * liking_U
        within_U = kinds.probability(row_U, kinds.places_moved(days_U, of_item_U, dials.drift))
        seen_U = (memory_UH == row_U[:, None]).sum(1) / max(known, 1)
        nats_LU[event] = -np.log(repeat_rate * seen_U + (1 - repeat_rate) * of_kind_U * within_U)
        rows_LU[event], memory_UH[:, event % REMEMBERED], last_kind_U = row_U, row_U, of_item_U
    types_E = np.searchsorted(np.cumsum(dials.type_shares[:-1]), rng.random(size * length)).astype(np.int8)
    rows_E = rows_LU.T.ravel().astype(np.int64)
    prices_E = (price_of(rows_E, kinds) * rng.uniform(0.9, 1.1, len(rows_E))).astype(np.float32)
    return Block(np.repeat(users_U, length), rows_E, _ms(START) + times_UL.ravel(), types_E, prices_E, nats_LU.T.ravel())


def items_of(dials: Dials, kinds: Kinds, rng: np.random.Generator) -> pa.Table:
    """The catalogue: names made of a kind's noun and two looks, ten kinds to a department, prices around the kind's."""
    rows = np.arange(dials.num_items)
    nouns = np.array([_noun(kind) for kind in range(dials.num_kinds)], object)
    looks = np.array(_LOOKS, object)[rng.integers(0, len(_LOOKS), (2, dials.num_items))]
    return pa.table(
        {
            "item_id": rows,
            "title": pa.array((looks[0] + " " + looks[1] + " " + nouns[kinds.kind_N]).tolist()),
            "department": pa.array([f"department {kind // 10}" for kind in kinds.kind_N.tolist()]),
            "price": np.round(price_of(rows, kinds), 2),
        }
    )


def price_of(rows_E: Ints, kinds: Kinds) -> Array:
    """The price of an item: from 1 to about 50, near that of its kind."""
    prices: Array = 1 + kinds.kind_N[rows_E] * 37 % 41 + rows_E * 7919 % 1000 / 100
    return prices


def schema_of(dials: Dials) -> Schema:
    """What the columns mean, and the times that split the events."""
    return Schema(
        events=EventColumns(event_type="event_type", features={"price_paid": "numeric"}),
        items=ItemColumns(title="title", features={"title": "text", "department": "categorical", "price": "numeric"}),
        split=Split(
            validation_from=START + timedelta(days=dials.days * VALIDATION), test_from=START + timedelta(days=dials.days * TEST)
        ),
    )


def _times(dials: Dials, rng: np.random.Generator, size: int) -> Ints:
    """Milliseconds [U, L] since the start: sessions with minutes between their events, spread over all days. No two are equal."""
    length = dials.events_per_user
    gaps_UL = rng.exponential(WITHIN_MINUTES * _MINUTE_MS, (size, length))
    ends_UL = rng.random((size, length)) < 1 / SESSION_EVENTS
    pauses = dials.days * DAY_MS / max(length / SESSION_EVENTS, 1) * 0.8
    gaps_UL[ends_UL] += rng.exponential(pauses, int(ends_UL.sum()))
    times_UL = np.cumsum(gaps_UL, 1) + rng.uniform(0, 0.2, size)[:, None] * dials.days * DAY_MS
    over_U = np.maximum(times_UL[:, -1] / (dials.days * DAY_MS - length), 1.0)
    return (times_UL / over_U[:, None]).astype(np.int64) + np.arange(length)


def _table(block: Block) -> pa.Table:
    types = pa.DictionaryArray.from_arrays(pa.array(block.types_E), pa.array(EVENT_TYPES))
    return pa.table(
        {
            "user_id": block.users_E,
            "item_id": block.rows_E,
            "timestamp": pa.array(block.times_ms_E).cast(pa.timestamp("ms", "UTC")),
            "event_type": types,
            "price_paid": block.prices_E,
        }
    )


def _empty() -> Block:
    nothing = np.zeros(0, np.int64)
    return Block(nothing, nothing, nothing, nothing.astype(np.int8), nothing.astype(np.float32), nothing.astype(np.float64))


def _noun(kind: int) -> str:
    """A word for a kind: its decimal digits as syllables."""
    return "".join(_SYLLABLES[int(digit)] for digit in f"{kind:03d}")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
