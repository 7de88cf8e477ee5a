"""Parameter budgets: the embedder, with its hash table, gets a fixed share of all trainable parameters."""

from typing import NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from training.recipes.config import TrainConfig
from training.recipes.embedder_check import check_embedder
from twotower.data.features import FeatureSpec
from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES
from twotower.errors import DataError
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import KINDS, build_embedder, embedder_class
from twotower.planning.sizes import MIN_HIDDEN, MIN_TABLE_ROWS, Sizes, ffn_width, fill

CONTEXT_TABLE_ROWS = 256  # event types, channels and the like; part of the contextualizer


class ParameterCount(NamedTuple):
    """Trainable parameters of both towers."""

    embedder: int
    contextualizer: int
    query_words: int = 0  # of the contextualizer's: the table of words of searches

    @property
    def share(self) -> float:
        """The embedder's share of the sum without the table of words, which the published share does not know."""
        return self.embedder / (self.embedder + self.contextualizer - self.query_words)


def size_model(
    config: TrainConfig, item_spec: FeatureSpec, context_spec: FeatureSpec, num_signals: int = 0, clock: bool = True
) -> ModelConfig:
    """The contextualizer of the config, and an embedder that gets `embedder_share` of all parameters."""
    model = ModelConfig(
        item_spec=item_spec,
        context_spec=context_spec,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        ffn_width=ffn_width(config.width),
        past_heads=config.past_heads,
        context_table_rows=CONTEXT_TABLE_ROWS,
        window=config.window,
        page=config.page,
        num_popularity=len(config.half_lives_days) + num_signals,
        embedder=config.embedder,
        clock=clock,
    )
    if config.embedder not in KINDS:
        check_embedder(embedder_class(config.embedder), model)
    return fit_embedder(model, config.embedder_share)


def fit_embedder(model: ModelConfig, share: float) -> ModelConfig:
    """`embedder_hidden` and `table_rows` such that an embedder of any kind has at most `share` of all parameters.

    Sizes are found by counting the parameters of the real module: the width takes what `TABLE_SHARE` leaves, then rows fill the
    budget. DataError when even the smallest embedder is too large.
    """
    budget = share / (1 - share) * count_parameters(model).contextualizer

    def size(hidden: int, rows: int) -> int:
        return count_embedder(replace(model, embedder_hidden=hidden, table_rows=rows))

    if (found := fill(budget, model.width, model.table_dim, size)) is None:
        own = "" if model.embedder in KINDS else "size its layers by config.embedder_hidden and its table by config.table_rows, "
        raise DataError(
            f"{share:.1%} of this model is {budget:,.0f} parameters, and at its smallest the embedder {model.embedder!r} needs "
            f"{size(MIN_HIDDEN, MIN_TABLE_ROWS):,} for {len(model.item_spec.fields)} features ({model.item_spec.dense_width} "
            f"dense columns): {own}widen the model, give it more with --embedder-share, or drop features."
        )
    return replace(model, **found._asdict())


def sizes_of(model: ModelConfig) -> Sizes:
    """The numbers of a model that parameters and FLOPs follow from."""
    context, item = model.context_spec, model.item_spec
    same = {name: getattr(model, name) for name in Sizes.__struct_fields__ if hasattr(model, name)}
    return Sizes(
        **same,
        context_slots=sum(context.slot_counts),
        wanted_slots=context.num_hashes,
        request_width=model.request_time_width + NUM_ACTIVITY_FEATURES,
        item_fields=len(item.hashed),
        item_slots=sum(item.slot_counts),
        item_dense=item.dense_width,
    )


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Trainable parameters of both towers, counted without allocating them."""
    with torch.device("meta"):
        contextualizer = Contextualizer(model)
        words = 0 if contextualizer.query_table is None else contextualizer.query_table.numel()
        return ParameterCount(count_embedder(model), _count(contextualizer), words)


def count_embedder(model: ModelConfig) -> int:
    """Trainable parameters of the embedder, counted without allocating them."""
    with torch.device("meta"):
        return _count(build_embedder(model))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
