"""From ranked rows to the rows of an answer: diversity, then promotions, then the page.

N: items, C: candidates, D: item vector width
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.api.schemas import RecommendRequest
from service.ranking.allowed import matching
from service.ranking.diversity import POOL, diversify
from service.ranking.pages import DEPTH, Page, page_token
from service.ranking.promotions import Pick, Promoted, notes, place
from service.release.filters import Mask
from service.release.loaded import LoadedRelease
from twotower.data.features import Floats, Ints

Found = tuple[Ints, Floats]  # rows and scores, best first


@dataclass(frozen=True, slots=True)
class Search:
    """One search for a request: the best `k` of the allowed rows, [N], None for all."""

    k: int
    allowed_N: Mask | None


@dataclass(frozen=True, slots=True)
class Arranged:
    """The places of one page, the token of the next, None at the end, and notes for `degraded`."""

    picks: list[Pick]
    next_page_token: str | None
    degraded: list[str]


def searches(release: LoadedRelease, asked: RecommendRequest, page: Page, allowed_N: Mask | None) -> list[Search]:
    """What `arrange` needs found: the ranking itself, then the matches of each promotion. ApiError names a bad filter."""
    wanted = num_wanted(asked, page)
    ranking = Search(POOL if asked.diversity else wanted, allowed_N)
    matches = [matching(release, p.filter, f"promotions[{i}].filter") for i, p in enumerate(asked.promotions)]
    if not matches:
        return [ranking]
    within_N = release.listed() if allowed_N is None else allowed_N
    return [ranking, *(Search(wanted, match_N & within_N) for match_N in matches)]


def num_wanted(asked: RecommendRequest, page: Page) -> int:
    """Ranked rows that are enough for every page up to this one.

    Each promotion may hold one back, and one more says whether there is a next page.
    """
    return min(len(page.given) + asked.num_results + len(asked.promotions) + 1, DEPTH)


def arrange(
    release: LoadedRelease, asked: RecommendRequest, page: Page, asked_for: Sequence[Search], found: Sequence[Found]
) -> Arranged:
    """The page asked for, `found` being the answers to `searches`."""
    (rows, scores), *matches = found
    if asked.diversity:
        order = diversify(unit_vectors(release, rows), scores, asked.diversity, num_wanted(asked, page))
        rows, scores = rows[order], scores[order]
    promoted = those_promoted(release, asked, asked_for, matches)
    size = min(asked.num_results, DEPTH - len(page.given))
    picks = place(pairs(rows, scores), promoted, page.given, size + 1)
    shown = picks[:size]
    given = (*page.given, *(pick.row for pick in shown))
    has_next = len(picks) > size > 0 and len(given) < DEPTH
    token = page_token(release, asked, page.now_ms, given) if has_next else None
    return Arranged(shown, token, notes(promoted, page.given, shown))


def those_promoted(
    release: LoadedRelease, asked: RecommendRequest, asked_for: Sequence[Search], matches: Sequence[Found]
) -> list[Promoted]:
    """The promotions with what they may show; without those whose position lies behind the last item."""
    if not asked.promotions:
        return []
    first, *others = (release.listed() if search.allowed_N is None else search.allowed_N for search in asked_for)
    num_allowed = np.count_nonzero(first)
    return [
        Promoted(promotion, mask_N, pairs(*match))
        for promotion, mask_N, match in zip(asked.promotions, others, matches, strict=True)
        if (promotion.position or 0) <= num_allowed
    ]


def pairs(rows: Ints, scores: Floats) -> list[tuple[int, float]]:
    """The same as a list."""
    return list(zip(rows.tolist(), scores.tolist(), strict=True))


def unit_vectors(release: LoadedRelease, rows: Ints) -> Floats:
    """Item vectors [C, D] of norm 1."""
    width = release.towers.config.model.width
    vectors_CD = release.vectors(rows)[:, :width].numpy() / release.norms_N[rows, None]
    return np.asarray(vectors_CD, np.float32)
