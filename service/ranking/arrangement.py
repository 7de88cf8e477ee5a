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
    """One search of a request: for the best `k` of the allowed rows, [N], or of all rows if None."""

    k: int
    allowed_N: Mask | None


@dataclass(frozen=True, slots=True)
class Arranged:
    """The places of one page, the token of the next page (None at the end), and notes for `degraded`."""

    picks: list[Pick]
    next_page_token: str | None
    degraded: list[str]


def searches(release: LoadedRelease, request: RecommendRequest, page: Page, allowed_N: Mask | None) -> list[Search]:
    """The searches whose results `arrange` needs: the ranking itself, then the matches of each promotion.

    ApiError that names the field of a promotion whose filter cannot be evaluated.
    """
    wanted = num_wanted(request, page)
    ranking = Search(POOL if request.diversity else wanted, allowed_N)
    matches = [matching(release, p.filter, f"promotions[{i}].filter") for i, p in enumerate(request.promotions)]
    if not matches:
        return [ranking]
    within_N = release.listed() if allowed_N is None else allowed_N
    return [ranking, *(Search(wanted, match_N & within_N) for match_N in matches)]


def num_wanted(request: RecommendRequest, page: Page) -> int:
    """The number of ranked rows that is enough for every page up to this one.

    It includes one for each promotion, which may keep a row back, and one more that shows whether there is a next page.
    """
    return min(len(page.given) + request.num_results + len(request.promotions) + 1, depth_of(request))


def depth_of(request: RecommendRequest) -> int:
    """The number of items that all pages of a request have together. A request of our own may ask for more than a client may."""
    return max(DEPTH, request.num_results)


def arrange(
    release: LoadedRelease, request: RecommendRequest, page: Page, wanted_searches: Sequence[Search], found: Sequence[Found]
) -> Arranged:
    """The requested page; `found` are the results of `searches`."""
    (rows, scores), *matches = found
    if request.diversity:
        order = diversify(unit_vectors(release, rows), scores, request.diversity, num_wanted(request, page))
        rows, scores = rows[order], scores[order]
    promoted = fill_promotions(release, request, wanted_searches, matches)
    size = min(request.num_results, depth_of(request) - len(page.given))
    picks = place(pairs(rows, scores), promoted, page.given, size + 1)
    shown = picks[:size]
    given = (*page.given, *(pick.row for pick in shown))
    has_next = len(picks) > size > 0 and len(given) < DEPTH
    token = page_token(release, request, page.now_ms, given) if has_next else None
    return Arranged(shown, token, notes(promoted, page.given, shown))


def fill_promotions(
    release: LoadedRelease, request: RecommendRequest, wanted_searches: Sequence[Search], matches: Sequence[Found]
) -> list[Promoted]:
    """The promotions with the items they may show. A promotion whose position is behind the last item is left out."""
    if not request.promotions:
        return []
    first, *others = (release.listed() if search.allowed_N is None else search.allowed_N for search in wanted_searches)
    num_allowed = np.count_nonzero(first)
    return [
        Promoted(promotion, mask_N, pairs(*match))
        for promotion, mask_N, match in zip(request.promotions, others, matches, strict=True)
        if (promotion.position or 0) <= num_allowed
    ]


def pairs(rows: Ints, scores: Floats) -> list[tuple[int, float]]:
    """Rows and scores as a list of pairs."""
    return list(zip(rows.tolist(), scores.tolist(), strict=True))


def unit_vectors(release: LoadedRelease, rows: Ints) -> Floats:
    """Item vectors [C, D] of norm 1."""
    width = release.towers.config.model.width
    vectors_CD = release.vectors(rows)[:, :width].numpy() / release.norms_N[rows, None]
    return np.asarray(vectors_CD, np.float32)
