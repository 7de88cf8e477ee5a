"""A plan follows the published points, says what it costs, and refuses what cannot be planned."""

import math
from typing import Any

import msgspec
import pytest

from twotower.planning.law import Expected, Interval, Law, MetricLaw, PowerLaw
from twotower.planning.planner import Ask, plan
from twotower.planning.training_plan import TrainingPlan

BUDGETS = (1e15, 1e16, 1e17, 1e18, 1e19)


def planned(**asked: Any) -> TrainingPlan:
    return plan(Ask(**{"flops": 1e18, "metric": "ndcg@10", **asked}))


@pytest.mark.parametrize("flops", BUDGETS)
def test_every_published_budget_gets_a_model_near_its_optimum_and_its_data(flops: float) -> None:
    made = planned(flops=flops)
    best = made.choices[0]
    assert made.model.parameters == pytest.approx(best.parameters, rel=0.1)
    assert made.model.embedder_share == pytest.approx(0.02, abs=0.001)
    assert 6 * made.model.parameters * made.events == pytest.approx(flops) == made.cost.model_flops


def test_the_published_points_stand_beside_the_law_and_its_error() -> None:
    made = planned()
    assert [round(p.events_per_parameter) for p in made.published] == [344, 265, 222, 110, 36]
    assert [round(100 * p.law_error) for p in made.published] == [29, -2, -32, -20, 43]
    law = made.exponents
    assert (round(law.parameters, 3), round(law.events, 3)) == (0.617, 0.383)
    assert (round(law.standard_error, 4), round(law.half_width_95, 3)) == (0.0248, 0.079)
    assert [choice.source for choice in made.choices] == ["published points", "published law"]


def test_batch_rate_and_warm_up_follow_the_published_rules() -> None:
    schedule = planned().schedule
    assert (schedule.batch, schedule.batch_windows, schedule.knee_low, schedule.knee_high) == (2048, 8, 200, 275)
    assert schedule.learning_rate == pytest.approx(2e-3 * math.sqrt(2048 / 512))
    assert schedule.warmup_steps == pytest.approx(0.05 * schedule.steps, abs=1)
    assert schedule.steps * schedule.batch == pytest.approx(planned().events, rel=1e-3)


def test_scores_may_cost_more_than_the_model_which_is_said() -> None:
    made = planned(flops=1e15)
    assert made.cost.exact_flops > 5 * made.cost.model_flops
    assert made.cost.events_if_all_count is not None
    assert made.cost.events_if_all_count < made.events / 5
    assert any("scoring 200,000 candidates is 93% of a step" in warning for warning in made.warnings)
    assert sum(made.cost.stage_2.values()) == pytest.approx(1)


def test_a_small_catalogue_is_scored_whole() -> None:
    negatives = planned(items=92_331).negatives
    assert (negatives.candidates, negatives.whole_catalogue, negatives.published) == (92_331, True, 1_000_000)
    assert not planned(items=5e6).negatives.whole_catalogue


def test_so_many_candidates_cost_as_much_as_the_model() -> None:
    balanced = planned().negatives.as_dear_as_the_model
    shares = planned(items=balanced).cost.stage_2
    assert shares["scoring"] + shares["popularity"] == pytest.approx(0.5, abs=0.001)


def test_a_gpu_computes_the_scores_of_stage_1_twice() -> None:
    assert planned(items=1e6, gpu_memory=80e9).cost.exact_flops > planned(items=1e6).cost.exact_flops


def test_data_short_of_the_optimum_is_a_warning_with_what_it_is_worth() -> None:
    made = planned(events=1e9)
    assert made.data is not None
    assert made.data.passes == pytest.approx(made.events / 1e9)
    assert 1e9 < made.data.worth < made.events
    assert list(made.data.budgets) == ["1", "4", "16"]
    assert any("times fewer than the optimum reads" in warning for warning in made.warnings)
    assert planned(events=1e12).warnings == planned().warnings


def test_candidates_that_bind_the_memory_are_a_warning_with_the_devices_that_hold_them() -> None:
    made = planned(items=1e8, gpu_memory=80e9)
    assert made.memory.shards == 7
    assert any("split over 7 devices" in warning for warning in made.warnings)
    assert not any("do not fit" in warning for warning in planned(items=1e6, gpu_memory=80e9).warnings)


def test_a_model_that_binds_the_memory_is_another_warning() -> None:
    made = planned(flops=1e23, items=1e5, gpu_memory=1e12)
    assert made.memory.binds == "model"
    assert any("--sharding fsdp" in warning for warning in made.warnings)


def test_far_from_the_published_budgets_the_plan_says_so() -> None:
    small, large = planned(flops=1e13), planned(flops=1e20)
    assert any("2.0 decades more" in warning for warning in small.warnings)
    assert any("the smallest embedder is already" in warning for warning in small.warnings)
    assert any("1.0 decades more" in warning for warning in large.warnings)
    assert any("2,000,000 candidates" in warning for warning in large.warnings)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"metric": None}, "name it first"),
        ({"metric": "ndgc@10"}, "there is no metric 'ndgc@10'"),
        ({"flops": 1e12}, r"smallest model has 33.6k: give at least 5\.5e\+12 FLOPs"),
        ({"flops": 1e25}, "too many to plan"),
        ({"flops": -1.0}, "give a positive number"),
        ({"flops": math.nan}, "give a positive number"),
        ({"items": 0}, "items is 0"),
        ({"events": math.inf}, "events is inf"),
        ({"gpu_memory": 1e6}, "for its activations alone"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        planned(**asked)


def test_the_smallest_budget_that_is_named_can_be_planned() -> None:
    assert planned(flops=5.5e12).model.parameters > 33_000


LAW = Law(
    format_version=1,
    corpus="shop-1a2b",
    made="2026-11-30T19:00:00Z",
    smallest_flops=1e17,
    largest_flops=1e18,
    run_keys=[],
    left_out={},
    metrics={
        "ndcg@10": MetricLaw(
            higher_is_better=True,
            parameters=PowerLaw(anchor=1e18, at_anchor=Interval(2e7, 1e7, 4e7), exponent=Interval(0.5, 0.4, 0.6)),
            events=PowerLaw(anchor=1e18, at_anchor=Interval(8e9, 4e9, 1.6e10), exponent=Interval(0.5, 0.4, 0.6)),
            optima=[],
            surface=None,
            curve=[Expected(flops=1e16, value=0.1, low=0.08, high=0.12), Expected(flops=1e19, value=0.4, low=0.3, high=0.5)],
        )
    },
)


def test_without_a_law_there_is_no_estimate() -> None:
    expected = planned().expected
    assert expected.value is None
    assert expected.source.startswith("no estimate")


def test_a_fitted_law_gives_the_metric_with_its_interval_and_its_own_sizes() -> None:
    made = plan(Ask(flops=1e18, metric="ndcg@10"), LAW)
    assert (made.expected.value, made.expected.low, made.expected.high) == pytest.approx((0.3, 0.22666667, 0.37333333))
    assert made.choices[2].source == "your law"
    assert (made.choices[2].parameters, made.choices[2].events) == (2e7, 8e9)
    assert made.fitted is not None
    assert (made.fitted.corpus, str(made.fitted.parameters)) == ("shop-1a2b", "0.5 [0.4, 0.6]")
    assert plan(Ask(flops=1e18, metric="mrr@10"), LAW).fitted is None


def test_far_from_its_runs_a_law_gives_no_estimate() -> None:
    expected = plan(Ask(flops=1e20, metric="ndcg@10"), LAW).expected
    assert expected.value is None
    assert "no estimate" in expected.source
    assert plan(Ask(flops=1e18, metric="mrr@10"), LAW).expected.value is None


def test_beyond_its_runs_the_estimate_says_so() -> None:
    assert "beyond its runs" in plan(Ask(flops=5e18, metric="ndcg@10"), LAW).expected.source


def test_a_plan_survives_json() -> None:
    made = planned(items=1e6, events=1e9, gpu_memory=80e9, rate=3e14)
    assert msgspec.json.decode(msgspec.json.encode(made), type=TrainingPlan) == made
