"""Shapes have the parameters asked for, counted without making a model."""

import msgspec
import pytest

from twotower.planning.sizes import (
    contextualizer_parameters,
    count_contextualizer,
    embedder_parameters,
    of_shape,
    shape_for,
    with_embedder,
)


@pytest.mark.parametrize("parameters", [0.7e6, 8.7e6, 215e6])
def test_a_shape_has_the_parameters_asked_for_and_usual_proportions(parameters: float) -> None:
    shape = shape_for(parameters, share=0.02)
    assert count_contextualizer(shape) / 0.98 == pytest.approx(parameters, rel=0.05)
    assert 16 <= shape.width / shape.num_layers <= 64
    assert 20 <= shape.width / shape.num_heads <= 64
    assert shape.num_heads == 2 * shape.num_kv_heads


def test_a_size_that_no_shape_has_is_refused() -> None:
    with pytest.raises(ValueError, match="Give another budget"):
        shape_for(1000, share=0.02)


@pytest.mark.parametrize("parameters", [0.7e6, 8.7e6, 215e6])
@pytest.mark.parametrize("kind", ["mlp", "tab_transformer", "bag"])
def test_an_embedder_fills_its_share(parameters: float, kind: str) -> None:
    sizes = with_embedder(msgspec.structs.replace(of_shape(shape_for(parameters, share=0.02)), embedder=kind), 0.02)
    embedder = embedder_parameters(sizes)
    assert embedder / (embedder + contextualizer_parameters(sizes)) == pytest.approx(0.02, rel=0.02)


def test_a_model_too_small_for_its_features_gets_the_smallest_embedder() -> None:
    sizes = with_embedder(of_shape(shape_for(34_000, share=0.02)), 0.02)
    assert (sizes.embedder_hidden, sizes.table_rows) == (8, 64)
    assert embedder_parameters(sizes) > 0.03 * contextualizer_parameters(sizes)


def test_an_embedder_of_the_users_own_has_no_closed_form() -> None:
    sizes = msgspec.structs.replace(of_shape(shape_for(0.7e6, share=0.02)), embedder="shop.towers:Towers")
    with pytest.raises(ValueError, match="take mlp, tab_transformer or bag"):
        embedder_parameters(sizes)
