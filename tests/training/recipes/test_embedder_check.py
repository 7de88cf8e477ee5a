"""A class that implements the interface passes; each violation is refused with an error that says what to do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from training.recipes.embedder_check import check_embedder
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.model.config import ModelConfig
from twotower.model.embedder import Embedder, MlpEmbedder
from twotower.model.kinds import KINDS

CONFIG = ModelConfig(
    item_spec=FeatureSpec(
        fields=(
            FieldSpec(name="item_id", kind="id"),
            FieldSpec(name="title", kind="text"),
            FieldSpec(name="price", kind="numeric", edges=(0.0, 1.0, 2.0)),
            FieldSpec(name="image", kind="vector", dim=4),
        )
    ),
    context_spec=FeatureSpec(fields=()),
    width=16,
    num_heads=2,
)


class Narrow(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF)[:, :8]


class Double(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF).double()


class Several(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        vectors_ND = super().forward(slots_NS, weights_NS, dense_NF)
        return (vectors_ND, vectors_ND)  # type: ignore[return-value]


class Infinite(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF) / weights_NS[:, :1].relu()


class BatchMean(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        vectors_ND = super().forward(slots_NS, weights_NS, dense_NF)
        return vectors_ND - vectors_ND.mean(0)


class Noisy(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF) + torch.randn(16)


class ByPlace(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF) + torch.arange(len(slots_NS))[:, None]


class Detached(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF).detach()


class Idle(MlpEmbedder):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.spare = nn.Linear(3, 3)


class Fixed(MlpEmbedder):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.table.requires_grad_(False)


class Rooted(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF) + (self.table[:, 0] * 0).sqrt().sum()


class Unregistered(MlpEmbedder):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.shift = torch.randn(config.width)

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return super().forward(slots_NS, weights_NS, dense_NF) + self.shift


class Tied(MlpEmbedder):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.again = self.out


class Choosy(MlpEmbedder):
    def __init__(self, config: ModelConfig, activation: str) -> None:
        super().__init__(config)
        self.activation = activation


class WithDropout(MlpEmbedder):
    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(slots_NS, weights_NS, dense_NF), 0.5, self.training)


@pytest.mark.parametrize("embedder", [*KINDS.values(), WithDropout])
def test_what_keeps_to_the_interface_passes(embedder: Callable[[ModelConfig], Embedder]) -> None:
    check_embedder(embedder, CONFIG)


@pytest.mark.parametrize(
    ("broken", "advice"),
    [
        (Narrow, r"float32 \(16, 8\).*return one tensor of float32"),
        (Double, r"float64 \(16, 16\).*return one tensor of float32"),
        (Several, "tuple.*return one tensor"),
        (Infinite, "never divide by zero"),
        (BatchMean, "without batch statistics"),
        (Noisy, "random numbers"),
        (ByPlace, "must depend on its own features alone"),
        (Detached, "do not detach"),
        (Idle, "spare.weight never takes part"),
        (Fixed, "table is a parameter that is not trained.*make it a buffer"),
        (Rooted, "gradient that is not finite"),
        (Unregistered, "register every random or learned tensor"),
        (Tied, "share memory"),
        (Choosy, r"give it __init__\(self, config\)"),
        (dict, "no torch.nn.Module"),
        (check_embedder, "no torch.nn.Module"),
    ],
)
def test_what_breaks_it_is_told_how_to_keep_it(broken: Callable[[ModelConfig], Embedder], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        check_embedder(broken, CONFIG)
