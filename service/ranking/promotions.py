"""Items that get their place by a rule rather than by their score.

Every place is decided by the places before it alone, never by how many follow: a longer answer begins as a shorter one does,
and pages put together are the longer answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from service.api.schemas import Promotion
from service.release.filters import Mask

PROMOTION_SHORT = "promotion_short"
Ranked = Sequence[tuple[int, float]]  # rows and scores, best first


class Pick(NamedTuple):
    """One place of an answer; `promotion` names the promotion that filled it."""

    row: int
    score: float
    source: Literal["model", "promotion"] = "model"
    promotion: str | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """A promotion, the items it may show, and the best of them."""

    promotion: Promotion
    allowed_N: Mask
    ranked: Ranked

    def picks(self) -> Iterator[Pick]:
        """What it would show."""
        return (Pick(row, score, "promotion", self.promotion.name) for row, score in self.ranked)

    def num_owed(self, num_places: int) -> int:
        """How many of the first places its share is, rounded up."""
        return math.ceil(num_places * (self.promotion.percent or 0) / 100 - 1e-9)


def place(ranked: Ranked, promoted: Sequence[Promoted], given: Sequence[int], k: int) -> list[Pick]:
    """The `k` places behind those of `given`, fewer where items end; no row twice, nor one of `given`.

    A position takes the best match that no earlier position took, which is kept back for it; it must not lie behind the last
    item of the longest answer. A percentage counts every match, promoted or not; where the first n items would lack one, the best
    match comes next, of the promotion listed first.
    """
    used = set(given)
    reserved = reserve(promoted, given)
    kept_back = {pick.row for pick in reserved.values()}
    shares = [p for p in promoted if p.promotion.percent is not None]
    counts = [sum(bool(p.allowed_N[row]) for row in given) for p in shares]
    offers = [p.picks() for p in shares]
    rest = (Pick(row, score) for row, score in ranked)

    def left(offered: Iterator[Pick]) -> Pick | None:
        return next((pick for pick in offered if pick.row not in used and pick.row not in kept_back), None)

    picks: list[Pick] = []
    natural = left(rest)
    while len(picks) < k:
        n = len(given) + len(picks) + 1
        pick = reserved.get(n)
        for share, count, offered in zip(shares, counts, offers, strict=True):
            if pick is None and count < share.num_owed(n):
                pick = natural if natural and share.allowed_N[natural.row] else left(offered)
        pick = pick or natural
        if pick is None:
            break
        picks.append(pick)
        used.add(pick.row)
        counts = [count + bool(share.allowed_N[pick.row]) for share, count in zip(shares, counts, strict=True)]
        if natural and natural.row in used:
            natural = left(rest)
    return picks


def reserve(promoted: Sequence[Promoted], given: Sequence[int]) -> dict[int, Pick]:
    """What stands at each fixed position behind those of `given`."""
    fixed = {p.promotion.position: p for p in promoted if p.promotion.position is not None and p.promotion.position > len(given)}
    taken = set(given)
    reserved: dict[int, Pick] = {}
    for position, one in sorted(fixed.items(), key=lambda entry: entry[0]):
        pick = next((p for p in one.picks() if p.row not in taken), None)
        if pick is not None:
            reserved[position] = pick
            taken.add(pick.row)
    return reserved


def notes(promoted: Sequence[Promoted], given: Sequence[int], picks: Sequence[Pick]) -> list[str]:
    """For `degraded`: whether a promotion has less than it was promised, in these places and those of `given`."""
    total = len(given) + len(picks)
    rows = [*given, *(pick.row for pick in picks)]
    for one in promoted:
        position = one.promotion.position
        if position is None:
            is_short = sum(bool(one.allowed_N[row]) for row in rows) < one.num_owed(total)
        else:
            is_here = len(given) < position <= total
            is_short = is_here and picks[position - len(given) - 1].promotion != one.promotion.name
        if is_short:
            return [PROMOTION_SHORT]
    return []
