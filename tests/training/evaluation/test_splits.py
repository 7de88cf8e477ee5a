"""Several rankers are evaluated on the same queries."""

import numpy as np
import pytest

from tests.training.conftest import Shop
from tests.training.evaluation.test_rankers import untrained
from training.evaluation.rankers import Popularity, Query, next_basket
from training.evaluation.splits import evaluate_part, sample, with_counters


def queries(shop: Shop) -> list[Query]:
    return next_basket(shop.data.log, shop.data.test_from_ms, shop.data.end_ms)


def test_the_model_is_compared_with_each_counter(shop: Shop) -> None:
    model = evaluate_part(shop.data, with_counters(shop.data, untrained(shop)), queries(shop), "test")["model"]
    for counter in ("popularity", "personal_frequency"):
        assert model[f"minus {counter}: ndcg@10.low"] < model[f"minus {counter}: ndcg@10.high"]
    assert model["minus popularity: set_loss.low"] > 0, "untrained"
    assert "minus personal_frequency: set_loss.low" not in model, "it has no probabilities"


def test_a_model_that_is_popularity_is_exactly_as_good_on_new_items(shop: Shop) -> None:
    model = evaluate_part(shop.data, with_counters(shop.data, Popularity(shop.data.snapshots)), queries(shop), "test")["model"]
    name = "over popularity: unseen_recall@10"
    assert [model[f"{name}{end}"] for end in ("", ".low", ".high")] == [1.0, 1.0, 1.0]


def test_without_popularity_there_is_no_ratio_to_it(shop: Shop) -> None:
    model = evaluate_part(shop.data, {"model": untrained(shop)}, queries(shop)[:20], "test")["model"]
    assert not [name for name in model if name.startswith(("over", "minus"))]


def test_a_part_without_queries_has_no_metrics(shop: Shop) -> None:
    assert evaluate_part(shop.data, {"model": untrained(shop)}, [], "test") == {}


@pytest.mark.parametrize("num_answers", [1, 60, 10_000])
def test_a_sample_holds_whole_users_and_no_more_of_them_than_needed(shop: Shop, num_answers: int) -> None:
    every = queries(shop)
    chosen = sample(np.random.default_rng(0), every, num_answers)
    users = {q.user for q in chosen}
    assert chosen == [q for q in every if q.user in users]
    answers = {user: sum(len(q.answers) for q in every if q.user == user) for user in {q.user for q in every}}
    found = sum(answers[user] for user in users)
    assert min(num_answers, sum(answers.values())) <= found < num_answers + max(answers.values())
