"""Places of an answer, worked by hand on letters and then on anything; the items of a promotion are named by their letters."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.schemas import Promotion
from service.ranking.promotions import PROMOTION_SHORT, Promoted, notes, place

N = 26


def rank(letters: str) -> list[tuple[int, float]]:
    return [(ord(letter) - ord("a"), float(-i)) for i, letter in enumerate(letters)]


def promote(letters: str, **fields: Any) -> Promoted:
    mask = np.zeros(N, bool)
    mask[[row for row, _ in rank(letters)]] = True
    return Promoted(Promotion(**{"name": letters, "filter": "x"} | fields), mask, rank(letters))


def placed(ranked: str, promoted: list[Promoted], k: int, shown: str = "") -> str:
    """The letters of an answer, those of promotions in capitals."""
    picks = place(rank(ranked), promoted, [row for row, _ in rank(shown)], k)
    letters = [chr(ord("a") + pick.row) for pick in picks]
    return "".join(i.upper() if pick.source == "promotion" else i for i, pick in zip(letters, picks, strict=True))


@pytest.mark.parametrize(
    ("promoted", "answer"),
    [
        ([], "abcdef"),
        ([promote("xy", position=1)], "Xabcde"),
        ([promote("xy", position=3)], "abXcde"),
        ([promote("b", position=4)], "acdBef"),  # a fixed place is fixed, also for what would stand higher
        ([promote("xy", position=3), promote("xy", position=1)], "XaYbcd"),
        ([promote("x", position=3), promote("x", position=1)], "Xabcde"),  # too few: what there is
        ([promote("", position=2)], "abcdef"),
        ([promote("xy", position=9)], "abcdef"),
        ([promote("xyz", percent=50)], "XaYbZc"),
        ([promote("xyz", percent=100)], "XYZabc"),
        ([promote("xyz", percent=20)], "XabcdY"),
        ([promote("abx", percent=50)], "abcdXe"),  # a and b count: half of the first four match already
        ([promote("wxy", percent=50), promote("z", percent=50)], "WZXaYb"),  # z is used up
        ([promote("xy", percent=40), promote("z", position=1)], "ZXYabc"),
        ([promote("xy", percent=25), promote("x", position=2)], "YXabcd"),
    ],
)
def test_every_promotion_gets_its_places_and_the_rest_keeps_its_order(promoted: list[Promoted], answer: str) -> None:
    assert placed("abcdefgh", promoted, 6) == answer


def test_a_promoted_item_keeps_its_score_and_names_its_promotion() -> None:
    (pick,) = place([(3, 5.0)], [Promoted(Promotion(name="ours", filter="x", position=1), np.ones(N, bool), [(7, 1.5)])], [], 1)
    assert pick == (7, 1.5, "promotion", "ours")


@pytest.mark.parametrize(
    ("promoted", "is_short"),
    [
        ([], False),
        ([promote("xyz", percent=50)], False),
        ([promote("xy", percent=50)], True),
        ([promote("x", position=3)], False),
        ([promote("", position=3)], True),
        ([promote("", position=7)], False),  # not on this page
        ([promote("x", position=3), promote("x", position=4)], True),
    ],
)
def test_an_answer_with_less_than_was_promised_says_so(promoted: list[Promoted], is_short: bool) -> None:
    picks = place(rank("abcdefgh"), promoted, [], 6)
    assert notes(promoted, [], picks) == [PROMOTION_SHORT] * is_short


LETTERS = "abcdefghijklmnopqrstuvwxyz"
subsets = st.lists(st.sampled_from(LETTERS), unique=True).map("".join)
positions = st.builds(lambda letters, n: promote(letters, position=n), subsets, st.integers(1, N))
percents = st.builds(lambda letters, p: promote(letters, percent=p), subsets, st.sampled_from([0.5, 5, 10, 33.3, 50]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    ranked=st.permutations(LETTERS).map("".join),
    fixed=st.lists(positions, max_size=4, unique_by=lambda p: p.promotion.position),
    shares=st.lists(percents, max_size=2),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_pages_are_parts_of_one_ranking_in_which_no_item_comes_twice(
    ranked: str, fixed: list[Promoted], shares: list[Promoted], sizes: list[int]
) -> None:
    promoted = fixed + shares
    in_pages: list[Any] = []
    for size in sizes:
        in_pages += place(rank(ranked), promoted, [pick.row for pick in in_pages], size)
    assert in_pages == place(rank(ranked), promoted, [], sum(sizes))
    assert len({pick.row for pick in in_pages}) == len(in_pages) == min(sum(sizes), N)
    natural = [p.row for p in in_pages if p.source == "model"]
    assert natural == [row for row, _ in rank(ranked) if row in natural]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(share=percents, k=st.integers(1, N))
def test_a_share_holds_for_every_length_of_an_answer_while_matches_last(share: Promoted, k: int) -> None:
    picks = place(rank(LETTERS), [share], [], k)
    owed = math.ceil(k * (share.promotion.percent or 0) / 100 - 1e-9)
    assert sum(bool(share.allowed_N[pick.row]) for pick in picks) >= min(owed, len(share.ranked))
