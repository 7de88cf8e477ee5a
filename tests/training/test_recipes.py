"""Every recipe is a whole config and says what it was chosen by."""

import pytest

from training.recipes import RECIPES


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_names_its_metric_and_freezes_the_embedder_last(name: str) -> None:
    config = RECIPES[name]()
    assert config.metric
    assert RECIPES[name].__doc__
    assert config.stages[0].train_embedder
    assert not config.stages[-1].train_embedder
    assert config.stages[-1].num_uniform is None, "the last stage scores the whole catalogue, exactly"
