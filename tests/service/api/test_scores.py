"""The body of /v1/score, and its answer."""

from typing import Any

import msgspec
import pytest

from service.api.schemas import MAX_LISTED_IDS, AboutUser, RecommendResponse
from service.api.scores import ScoreRequest, ScoreResponse


@pytest.mark.parametrize("item_ids", [[], ["a", "a"], ["a"] * MAX_LISTED_IDS])
def test_the_items_to_score_are_named(item_ids: list[str]) -> None:
    assert msgspec.convert({"candidate_item_ids": item_ids}, ScoreRequest).candidate_item_ids == item_ids


@pytest.mark.parametrize(
    "body",
    [{}, {"candidate_item_ids": None}, {"candidate_item_ids": [""]}, {"candidate_item_ids": ["a"] * (MAX_LISTED_IDS + 1)}],
)
def test_other_items_are_refused(body: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, ScoreRequest)


def test_a_user_is_named_as_in_every_other_request() -> None:
    assert {*AboutUser.__struct_fields__, "candidate_item_ids"} == set(ScoreRequest.__struct_fields__)


def test_an_answer_says_what_it_stands_on_as_a_recommendation_does() -> None:
    recommended = set(RecommendResponse.__struct_fields__) - {"recommendation_id", "next_page_token"}
    assert set(ScoreResponse.__struct_fields__) == recommended
