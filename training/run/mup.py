"""Maximal update parametrisation (Yang et al. 2022, table 8, Adam): a learning rate chosen at one width holds at others.

Plain truncated-normal reached a lower loss at every scale (Brüel Gabrielsson 2026, arXiv 2606.05257) and stays the default;
this is to compare with.
Only initial scales and learning rates change, not the forward pass: under Adam, a multiplier in front of a matrix is the same
as that factor on its initial scale and on its learning rate. Attention needs no change, because heads keep their width in the
shapes of the recipes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from training.recipes.budget import fit_embedder
from training.recipes.config import TrainConfig
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.planning.sizes import ffn_width

QUERY_SCALE = "contextualizer.query_scale"  # of the query vector, whose dot product with an item is over the whole width


class Scale(NamedTuple):
    """Factors on the learning rate and on the initial values of a parameter."""

    rate: float = 1.0
    start: float = 1.0


def mup_scales(config: TrainConfig, model: ModelConfig) -> dict[str, Scale]:
    """The scale of every parameter of both towers (`embedder.*`, `contextualizer.*`), from its shape here and at the base width.

    The learning rate of a matrix shrinks as its input grows. A matrix whose input grows but not its output also starts smaller.
    Lookup tables, biases and norms keep theirs. At the base width every scale is 1. Without a base width nothing is scaled.
    """
    if (width := config.mup_base_width) is None:
        return {}
    base = replace(model, width=width, num_heads=2, num_kv_heads=1, ffn_width=ffn_width(width))
    there = shapes(fit_embedder(base, config.embedder_share))
    scales = {name: _scale(name, shape, there[name]) for name, shape in shapes(model).items()}
    ratio = width / model.width
    return scales | {QUERY_SCALE: Scale(ratio, ratio)}


def shapes(model: ModelConfig) -> dict[str, torch.Size]:
    """The shape of every parameter of both towers."""
    with torch.device("meta"):
        towers = nn.ModuleDict({"embedder": build_embedder(model), "contextualizer": Contextualizer(model)})
    return {name: parameter.shape for name, parameter in towers.named_parameters()}


def _scale(name: str, here: torch.Size, there: torch.Size) -> Scale:
    if len(here) != 2 or "table" in name:
        return Scale()
    ratio = there[1] / here[1]
    return Scale(ratio) if here[0] != there[0] else Scale(ratio, ratio**0.5)


def start_mup(towers: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Rescale freshly initialised parameters in place. To be called before they are sharded."""
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            parameter.mul_(scales.get(name, Scale()).start)


def mup_groups(groups: Sequence[Mapping[str, Any]], towers: nn.Module, scales: Mapping[str, Scale]) -> list[dict[str, Any]]:
    """The groups of an optimizer, split so that each has one `rate_scale`, a factor on the scheduled learning rate."""
    rates = {parameter: scales.get(name, Scale()).rate for name, parameter in towers.named_parameters()}
    return [
        {**group, "params": [p for p in group["params"] if rates[p] == rate], "rate_scale": rate}
        for group in groups
        for rate in sorted({rates[p] for p in group["params"]})
    ]
