"""Coordinate check: under muP the scale of what the towers compute, and how fast it moves, does not depend on the width.

N: items, B: histories, L: events, Q: queries, D: model width
"""

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.recipes.budget import fit_embedder
from training.recipes.config import StageConfig, TrainConfig
from training.run.mup import Scale, mup_groups, mup_scales, start_mup
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.planning.sizes import ffn_width

BASE = 32
NUM_ITEMS, NUM_HISTORIES, LENGTH = 150, 4, 10
CONFIG = TrainConfig(
    metric="loss",
    minutes=1.0,
    stages=(StageConfig(share=1.0, num_negatives=None, train_embedder=True),),
    embedder_share=0.1,
    mup_base_width=BASE,
)


def model_of(width: int) -> ModelConfig:
    return fit_embedder(
        ModelConfig(
            item_spec=FeatureSpec(fields=(FieldSpec(name="item_id", kind="id"), FieldSpec(name="brand", kind="categorical"))),
            context_spec=FeatureSpec(fields=()),
            width=width,
            num_layers=2,
            num_heads=width // 16,
            num_kv_heads=width // 32,
            ffn_width=ffn_width(width),
            context_table_rows=8,
        ),
        CONFIG.embedder_share,
    )


def towers_of(model: ModelConfig, seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"embedder": build_embedder(model), "contextualizer": Contextualizer(model)})


def activations(towers: nn.ModuleDict, model: ModelConfig) -> tuple[Tensor, Tensor]:
    """The residual stream after the last block [B, L, D], and scores [Q, N] of the next item."""
    rng = np.random.default_rng(0)
    slots_NS = torch.from_numpy(rng.integers(0, 64, (NUM_ITEMS, 5)))
    weights_NS = torch.from_numpy(rng.choice([-1.0, 1.0], (NUM_ITEMS, 5)).astype(np.float32))
    vectors_ND = towers["embedder"](slots_NS, weights_NS, torch.zeros(NUM_ITEMS, 0))
    contextualizer = towers["contextualizer"]
    assert isinstance(contextualizer, Contextualizer)
    x_BLD, hidden_BLD = contextualizer.stream(vectors_ND[histories()[:, :-1]])
    hidden_QD = hidden_BLD.flatten(0, 1)
    extra = contextualizer.popularity_hidden.in_features - model.width
    query_QD = contextualizer.queries(functional.pad(hidden_QD, (0, extra)))[:, : model.width]
    return x_BLD, query_QD @ vectors_ND.T


def histories() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, NUM_ITEMS, (NUM_HISTORIES, LENGTH + 1)))


def moved(width: int, mup: bool) -> tuple[float, float]:
    """How far residual stream and scores are from where they began, after four steps; means of four seeds."""
    residual, scores = zip(*(moved_from(seed, width, mup) for seed in range(4)), strict=True)
    return sum(residual) / 4, sum(scores) / 4


def moved_from(seed: int, width: int, mup: bool) -> tuple[float, float]:
    """`moved` of one seed."""
    model = model_of(width)
    towers = towers_of(model, seed)
    scales = mup_scales(CONFIG if mup else msgspec.structs.replace(CONFIG, mup_base_width=None), model)
    start_mup(towers, scales)
    optimizer = torch.optim.AdamW(mup_groups([{"params": list(towers.parameters())}], towers, scales), betas=(0.9, 0.98))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * group["rate_scale"]
    before = [x.detach() for x in activations(towers, model)]
    for _ in range(4):
        loss = functional.cross_entropy(activations(towers, model)[1], histories()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    residual, scores = ((now - then).std().item() for now, then in zip(activations(towers, model), before, strict=True))
    return residual, scores


def test_activations_move_alike_at_every_width() -> None:
    residual, scores = zip(*(moved(width, mup=True) for width in (32, 128, 256)), strict=True)
    assert max(residual) < 2 * min(residual)
    assert max(scores) < 2 * min(scores)


def test_without_it_they_move_further_the_wider_the_model() -> None:
    narrow, wide = (moved(width, mup=False) for width in (32, 256))
    assert wide[0] > 3 * narrow[0]
    assert wide[1] > 5 * narrow[1]


def test_at_the_base_width_nothing_is_scaled() -> None:
    assert set(mup_scales(CONFIG, model_of(BASE)).values()) == {Scale(1.0, 1.0)}


def test_each_kind_of_matrix_has_its_rule() -> None:
    """At four times the base width: hidden matrices learn at a quarter of the rate, tables and inputs at the whole."""
    scales = mup_scales(CONFIG, model_of(4 * BASE))
    assert scales["contextualizer.blocks.0.qkv.weight"] == Scale(0.25, 1.0)
    assert scales["contextualizer.context_in.weight"] == Scale(1.0, 1.0)
    assert scales["contextualizer.context_table"] == Scale(1.0, 1.0)
    assert scales["contextualizer.norm.weight"] == Scale(1.0, 1.0)
    assert scales["embedder.table"] == scales["embedder.hidden.weight"] == Scale(1.0, 1.0)
    assert scales["contextualizer.query_scale"] == Scale(0.25, 0.25)
    assert scales["contextualizer.popularity_out.bias"] == Scale(1.0, 1.0)
    output = scales["contextualizer.repeat_query.weight"]
    assert output.start == pytest.approx(output.rate**0.5)


def test_groups_are_split_by_rate_and_keep_the_rest() -> None:
    towers = towers_of(model_of(64))
    groups = mup_groups([{"params": list(towers.parameters()), "weight_decay": 0.02}], towers, mup_scales(CONFIG, model_of(64)))
    assert sum(len(g["params"]) for g in groups) == len(list(towers.parameters()))
    assert all(g["weight_decay"] == 0.02 for g in groups)
    assert len({g["rate_scale"] for g in groups}) == len(groups) > 2
