"""The embedder gets its share of the parameters: two percent, give or take two tenths of a point."""

import msgspec
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Shop
from training.recipes.budget import count_parameters, size_model, sizes_of
from training.recipes.config import TrainConfig
from training.recipes.recipes import RECIPES
from twotower.errors import DataError
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import MlpEmbedder
from twotower.model.kinds import KINDS, build_embedder
from twotower.planning.compute_optimal import compute_optimal
from twotower.planning.sizes import TABLE_SHARE, contextualizer_parameters, embedder_parameters, shape_for


def replaced(config: TrainConfig, **changes: object) -> TrainConfig:
    return msgspec.structs.replace(config, **changes)


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("width", [96, 128, 256])
def test_the_embedder_holds_the_share_of_its_recipe(shop: Shop, name: str, width: int) -> None:
    config = msgspec.structs.replace(RECIPES[name](), width=width)
    model = size_model(config, shop.model.item_spec, shop.model.context_spec)
    assert count_parameters(model).share == pytest.approx(config.embedder_share, abs=0.002)
    assert config.embedder_share == 0.02 or name == "leave_one_out", "another share needs its reason in the docstring"


def test_the_count_is_that_of_the_real_towers(shop: Shop) -> None:
    counted = count_parameters(shop.model)
    for tower, number in ((build_embedder(shop.model), counted.embedder), (Contextualizer(shop.model), counted.contextualizer)):
        assert sum(p.numel() for p in tower.parameters()) == number
    assert torch.get_default_device().type == "cpu"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes", [{}, {"past_heads": 0, "num_layers": 3}, {"clock": False, "num_popularity": 3, "num_kv_heads": 4}]
)
def test_the_closed_forms_count_what_the_modules_hold(shop: Shop, kind: str, changes: dict[str, int]) -> None:
    model = msgspec.structs.replace(shop.model, embedder=kind, **changes)
    counted, sizes = count_parameters(model), sizes_of(model)
    assert (embedder_parameters(sizes), contextualizer_parameters(sizes), 0) == counted


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_too_small_for_the_features_is_refused(shop: Shop, kind: str) -> None:
    config = replaced(shop.config, embedder_share=0.001, embedder=kind)
    with pytest.raises(DataError, match=f"0.1% of this model is .* '{kind}' needs .* widen the model"):
        size_model(config, shop.model.item_spec, shop.model.context_spec)


class Mine(MlpEmbedder):
    """A user's own that keeps to the sizes it is given."""


class Greedy(MlpEmbedder):
    """One that does not."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.big = nn.Linear(config.width, 300)
        self.back = nn.Linear(300, config.width)

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        vectors_ND: Tensor = self.back(self.big(super().forward(slots_NS, weights_NS, dense_NF)))
        return vectors_ND


class Unfit(MlpEmbedder):
    """One that breaks the interface."""

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF).double()


@pytest.mark.parametrize("kind", [*KINDS, f"{__name__}:Mine"])
@pytest.mark.parametrize("share", [0.02, 0.06])
def test_every_kind_fills_its_budget_and_gives_rows_their_part(shop: Shop, kind: str, share: float) -> None:
    config = replaced(shop.config, width=128, num_layers=4, embedder_share=share, embedder=kind)
    model = size_model(config, shop.model.item_spec, shop.model.context_spec)
    counted = count_parameters(model)
    one_row_more = count_parameters(msgspec.structs.replace(model, table_rows=model.table_rows + 1))
    assert counted.share <= share < one_row_more.share
    assert counted.share == pytest.approx(share, rel=0.005 if kind != "bag" else 0.01)  # one row of `bag` is wide
    table = build_embedder(model).get_parameter("table")
    assert len(table) == model.table_rows
    assert table.numel() > 0.9 * TABLE_SHARE * counted.embedder


def test_a_users_own_that_takes_more_than_its_share_is_refused_with_the_numbers(shop: Shop) -> None:
    config = replaced(shop.config, embedder=f"{__name__}:Greedy")
    with pytest.raises(DataError, match=r"20.0% of this model is [\d,]+ .*Greedy' needs [\d,]+ .*size its layers by config"):
        size_model(config, shop.model.item_spec, shop.model.context_spec)


def test_a_users_own_is_checked_before_it_is_sized(shop: Shop) -> None:
    config = replaced(shop.config, embedder=f"{__name__}:Unfit")
    with pytest.raises(ValueError, match="return one tensor of float32"):
        size_model(config, shop.model.item_spec, shop.model.context_spec)


def test_event_features_leave_the_shape_within_ten_percent(shop: Shop) -> None:
    plan = compute_optimal(1e15)
    config = replaced(shop.config, **shape_for(plan.parameters, share=0.02)._asdict(), embedder_share=0.02)
    counted = count_parameters(size_model(config, shop.model.item_spec, shop.model.context_spec))
    assert counted.embedder + counted.contextualizer == pytest.approx(plan.parameters, rel=0.1)
