"""Promotions: items that get their place by a rule and not by their score.

Each place depends only on the places before it, never on the number of places. So a longer answer begins like a shorter one, and
the pages of an answer together equal one long answer.
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
    """One filled place of an answer; `promotion` is the name of the promotion that filled it."""

    row: int
    score: float
    source: Literal["model", "promotion"] = "model"
    promotion: str | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """A promotion, the items that it may show, and the best of these, ranked."""

    promotion: Promotion
    allowed_N: Mask
    ranked: Ranked

    def picks(self) -> Iterator[Pick]:
        """Picks of the promotion, best first."""
        return (Pick(row, score, "promotion", self.promotion.name) for row, score in self.ranked)

    def num_owed(self, num_places: int) -> int:
        """How many of the first `num_places` places its percentage needs, rounded up."""
        return math.ceil(num_places * (self.promotion.percent or 0) / 100 - 1e-9)


def place(ranked: Ranked, promoted: Sequence[Promoted], given: Sequence[int], k: int) -> list[Pick]:
    """The `k` places after those of `given`, fewer if there are not enough items. No row comes twice, and none of `given` again.

    A promotion with a position gets the best match that no promotion with an earlier position gets. That match is kept back until
    its place comes. The position must not be behind the last item of the longest possible answer.

    A promotion with a percentage counts every match, promoted or not. If the first n items would have too few matches, the best
    remaining match takes the next place. If several promotions lack matches, the one listed first goes first.
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
    """The pick for each fixed position after those of `given`."""
    fixed = {p.promotion.position: p for p in promoted if p.promotion.position is not None and p.promotion.position > len(given)}
    taken = set(given)
    reserved: dict[int, Pick] = {}
    for position, fixed_promotion in sorted(fixed.items(), key=lambda entry: entry[0]):
        pick = next((p for p in fixed_promotion.picks() if p.row not in taken), None)
        if pick is not None:
            reserved[position] = pick
            taken.add(pick.row)
    return reserved


def notes(promoted: Sequence[Promoted], given: Sequence[int], picks: Sequence[Pick]) -> list[str]:
    """Notes for `degraded`: whether a promotion has too few items in these places and those of `given`."""
    total = len(given) + len(picks)
    rows = [*given, *(pick.row for pick in picks)]
    for each in promoted:
        position = each.promotion.position
        if position is None:
            is_short = sum(bool(each.allowed_N[row]) for row in rows) < each.num_owed(total)
        else:
            is_here = len(given) < position <= total
            is_short = is_here and picks[position - len(given) - 1].promotion != each.promotion.name
        if is_short:
            return [PROMOTION_SHORT]
    return []
