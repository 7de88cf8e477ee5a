"""Maximal update parametrisation (Yang et al. 2022, table 8, Adam): a learning rate chosen at one width holds at others.

Plain truncated-normal reached a lower loss at every scale (SCIENCE) and stays the default; this is for the comparison.
Only initial scales and learning rates change, so the forward pass is the plain one: a multiplier in front of a matrix is,
under Adam, the same factor on its initial scale and on its rate. Heads keep their width in the recipes' shapes, so attention
needs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from training.recipes.budget import ffn_width, fit_embedder
from training.recipes.config import TrainConfig
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder

QUERY_OUT = "contextualizer.query_out."  # makes the vector whose dot product with items, over the width, is the score


class Scale(NamedTuple):
    """What a parameter's learning rate and its initial values are multiplied by."""

    rate: float = 1.0
    start: float = 1.0


def mup_scales(config: TrainConfig, model: ModelConfig) -> dict[str, Scale]:
    """The scale of every parameter of both towers (`embedder.*`, `contextualizer.*`), from its shape here and at the base width.

    A matrix whose input grows learns slower by as much; one whose output does not grow with it also starts smaller. Lookup
    tables, biases and norms stay. At the base width every scale is 1; nothing is scaled in a run without one.
    """
    if (width := config.mup_base_width) is None:
        return {}
    base = replace(model, width=width, num_heads=2, num_kv_heads=1, ffn_width=ffn_width(width))
    there = shapes(fit_embedder(base, config.embedder_share))
    scales = {name: _scale(name, shape, there[name]) for name, shape in shapes(model).items()}
    ratio = width / model.width
    for name in (f"{QUERY_OUT}weight", f"{QUERY_OUT}bias"):
        rate, start = scales[name]
        # The bias holds the popularity prior, which no width changes: it starts where it is.
        scales[name] = Scale(rate * ratio, start * ratio if name.endswith("weight") else start)
    return scales


def shapes(model: ModelConfig) -> dict[str, torch.Size]:
    """Of every parameter of both towers."""
    with torch.device("meta"):
        towers = nn.ModuleDict({"embedder": build_embedder(model), "contextualizer": Contextualizer(model)})
    return {name: parameter.shape for name, parameter in towers.named_parameters()}


def _scale(name: str, here: torch.Size, there: torch.Size) -> Scale:
    if len(here) != 2 or "table" in name:
        return Scale()
    ratio = there[1] / here[1]
    return Scale(ratio) if here[0] != there[0] else Scale(ratio, ratio**0.5)


def start_mup(towers: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Rescale freshly initialised parameters, in place; before they are sharded."""
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            parameter.mul_(scales.get(name, Scale()).start)


def mup_groups(groups: Sequence[Mapping[str, Any]], towers: nn.Module, scales: Mapping[str, Scale]) -> list[dict[str, Any]]:
    """An optimizer's groups, split so that each has one `rate_scale`: its rate is the schedule's times that."""
    rates = {parameter: scales.get(name, Scale()).rate for name, parameter in towers.named_parameters()}
    return [
        {**group, "params": [p for p in group["params"] if rates[p] == rate], "rate_scale": rate}
        for group in groups
        for rate in sorted({rates[p] for p in group["params"]})
    ]
