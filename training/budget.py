"""Parameter budgets: the embedder is sized to its share of all trainable scalars, hash table included."""

from typing import NamedTuple

import msgspec
import torch
from torch import nn

from training.config import TrainConfig
from twotower.errors import DataError
from twotower.features import FeatureSpec
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder

TABLE_SHARE = 0.35  # of the embedder's budget; rows before width, or the tail of the catalogue collides (quality research)
MIN_TABLE_ROWS = 64
CONTEXT_TABLE_ROWS = 256  # event types, channels and the like; part of the contextualizer


class ParameterCount(NamedTuple):
    """Trainable scalars of both towers."""

    embedder: int
    contextualizer: int

    @property
    def share(self) -> float:
        """The embedder's share of the sum."""
        return self.embedder / (self.embedder + self.contextualizer)


def size_model(config: TrainConfig, item_spec: FeatureSpec, context_spec: FeatureSpec) -> ModelConfig:
    """The contextualizer as asked for, and an embedder fitted to `embedder_share` of all scalars."""
    model = ModelConfig(
        item_spec=item_spec,
        context_spec=context_spec,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        ffn_width=config.width * 8 // 3 // 8 * 8,
        context_table_rows=CONTEXT_TABLE_ROWS,
        num_popularity=len(config.half_lives_days),
    )
    budget = config.embedder_share / (1 - config.embedder_share) * count_parameters(model).contextualizer
    per_unit = model.embedder_input + 1 + model.width
    hidden = max(8, int((budget * (1 - TABLE_SHARE) - model.width) / per_unit) // 4 * 4)
    rows = int((budget - hidden * per_unit - model.width) / model.table_dim)
    if rows < MIN_TABLE_ROWS:
        raise DataError(
            f"{config.embedder_share:.1%} of this model is {budget:,.0f} parameters, too few to embed {len(item_spec.fields)} "
            f"features ({item_spec.dense_width} dense columns). Widen the model, raise the share, or drop features."
        )
    return msgspec.structs.replace(model, embedder_hidden=hidden, table_rows=rows)


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count without allocating."""
    with torch.device("meta"):
        return ParameterCount(_count(Embedder(model)), _count(Contextualizer(model)))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
