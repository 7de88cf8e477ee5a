"""The page says what was compared, what was not and why, and lets no text from data become markup."""

import re
from datetime import UTC, datetime

from msgspec.structs import replace

from embedder_cache.drift.answers import AnswerDrift
from embedder_cache.drift.drift import Drift, Items, Moved, Mover, PopularityDrift, Side, VectorDrift
from embedder_cache.drift.page import render
from embedder_cache.drift.retrain import Rules, SinceTraining, advise

EVIL = '<script>alert("x")</script>'


def side(release: str, num_items: int) -> Side:
    as_of = datetime(2026, 11, 22, tzinfo=UTC)
    return Side(release=release, bundle_id="bundle-1", vector_space_id="s", num_items=num_items, popularity_as_of=as_of)


SINCE = SinceTraining(unseen_demand=0.2, unseen_items=0.31, popularity_divergence=0.01, bundle_age_days=2.0)
DRIFT = Drift(
    older=side("release-old", 100),
    newer=side("release-new", 101),
    items=Items(common=97, added=4, removed=3),
    same_vector_space=True,
    vectors=VectorDrift(
        bit_equal=95,
        changed_share=2 / 97,
        cosine={"minimum": 0.4, "median": 0.7},
        items_by_cosine={"bit-equal": 95, "0.9 to 1": 1, "-1 to 0.9": 1},
        most_moved=[Moved(item_id=EVIL, label=EVIL, cosine=0.4), Moved(item_id="nameless", label=None, cosine=0.9)],
    ),
    popularity=PopularityDrift(
        spearman=None, divergence=0.12, risers=[Mover(item_id="a", label="tea " * 20, before=0, after=0.031)], fallers=[]
    ),
    answers=AnswerDrift(
        num_golden=2,
        num_made_up=0,
        depth=20,
        overlap=0.75,
        overlaps=[0.5, 1.0],
        share_added=0.1,
        share_removed=0.2,
        spearman=0.9,
        score_shift=0.5,
        score_spread=None,
    ),
    since_training=SINCE,
    advice=advise(SINCE, Rules()),
)


def text(drift: Drift) -> str:
    """The page as it reads."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", render(drift), flags=re.DOTALL).split())


def test_the_advice_stands_first_with_its_reason() -> None:
    shown = text(DRIFT)
    assert "Train again now now: 20.0 % of demand is for items without an event in training" in shown
    assert shown.index("Train again now") < shown.index("vectors changed") < shown.index("Popularity")
    assert 'class="verdict worse"' in render(DRIFT)


def test_the_figures_to_read_first() -> None:
    shown = text(DRIFT)
    for figure in (
        "101 +4 new, −3 gone",
        "2.1 % 95 items are bit-equal",
        "75 % 50 % to 100 % of the first 20, 2 questions",
        "0.12 bits",
        "31 %",
    ):
        assert figure in shown


def test_text_from_data_is_escaped_and_shortened() -> None:
    assert "<script" not in render(DRIFT)
    assert f"{('tea ' * 20)[:39]}…" in render(DRIFT)
    assert "nameless" in render(DRIFT)


def test_without_a_bundle_the_page_asks_for_it() -> None:
    shown = text(replace(DRIFT, since_training=None, advice=advise(None, Rules())))
    assert "Not known whether to train again Give --bundle" in shown


def test_why_vectors_are_not_compared_is_said() -> None:
    assert "lie in different spaces" in text(replace(DRIFT, vectors=None, same_vector_space=False))
    assert "no item in common" in text(replace(DRIFT, vectors=None, answers=None))


def test_a_catalogue_that_did_not_change_needs_no_chart() -> None:
    still = VectorDrift(bit_equal=97, changed_share=0, cosine={}, items_by_cosine={"bit-equal": 97}, most_moved=[])
    assert "All 97 common items are bit-equal." in text(replace(DRIFT, vectors=still))


def test_popularity_as_of_training_is_said_in_words() -> None:
    older = replace(DRIFT.older, popularity_as_of=None)
    assert "the bundle's training" in text(replace(DRIFT, older=older)).replace("&#39;", "'")


def test_the_page_asks_nothing_of_the_network() -> None:
    assert re.findall(r"\bsrc\s*=|@import|url\(http|<link|<script", render(DRIFT)) == []
