"""Every recipe is a whole config and says what it was chosen by."""

import msgspec
import pytest

from training.recipes.recipes import RECIPES, from_budget, mup, popular_negatives, uncorrected_negatives
from twotower.data.window import WINDOW
from twotower.planning.planner import Ask, plan


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_names_its_metric_and_freezes_the_embedder_last(name: str) -> None:
    config = RECIPES[name]()
    assert config.metric
    assert RECIPES[name].__doc__
    assert config.stages[0].train_embedder
    assert not config.stages[-1].train_embedder or len(config.stages) == 1
    last = config.stages[-1]
    if not last.train_embedder:
        assert last.num_negatives is None or last.num_negatives >= 200_000, "as many as are published as useful"


def test_a_budget_buys_the_published_model_and_data() -> None:
    config = from_budget(flops=1e15)
    assert config.minutes is None, "the budget ends the run, not the clock"
    steps = sum(stage.max_steps or 0 for stage in config.stages)
    assert steps * config.batch_windows * WINDOW == pytest.approx(2.39e8, rel=0.01)
    assert config.embedder_share == 0.02
    assert (config.learning_rate, config.warmup) == (2e-3, 0.05)
    assert config.stages[-1].num_negatives == 200_000


def test_a_larger_budget_buys_a_larger_model_and_more_negatives() -> None:
    small, large = from_budget(1e15), from_budget(1e18)
    assert large.width * large.num_layers > small.width * small.num_layers
    assert large.stages[-1].num_negatives == 1_000_000


@pytest.mark.parametrize("flops", [1e15, 1e16, 1e17, 1e18, 1e19])
def test_the_recipe_trains_what_is_planned_for_its_budget(flops: float) -> None:
    config, planned = from_budget(flops), plan(Ask(flops=flops, metric="recall@10"))
    names = ("width", "num_layers", "num_heads", "num_kv_heads")
    assert [getattr(config, name) for name in names] == [getattr(planned.model, name) for name in names]
    assert (config.max_queries, config.batch_windows) == (planned.schedule.batch, planned.schedule.batch_windows)
    assert config.stages[-1].num_negatives == planned.negatives.candidates
    steps = sum(stage.max_steps or 0 for stage in config.stages)
    assert steps == pytest.approx(planned.schedule.steps, rel=0.1), "the plan's D follows from the model that can be built"


def test_mup_is_the_same_run_parametrised_otherwise() -> None:
    assert msgspec.structs.replace(mup(3e15), mup_base_width=None) == from_budget(3e15)
    assert mup(3e15).mup_base_width == 128


def test_other_negatives_are_the_same_run_with_another_pool() -> None:
    for recipe, negatives in ((popular_negatives, "popular"), (uncorrected_negatives, "popular_uncorrected")):
        changed, plain = recipe(3e15), from_budget(3e15)
        assert changed.stages[:-1] == plain.stages[:-1]
        assert changed.stages[-1] == msgspec.structs.replace(plain.stages[-1], negatives=negatives)
        assert msgspec.structs.replace(changed, stages=plain.stages) == plain
