"""How long a run a budget pays for: steps and events, with every term counted or by C = 6 N D.

C: FLOPs, N: parameters, D: events
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from twotower.planning.compute_optimal import FLOPS_PER_PARAMETER_AND_EVENT
from twotower.planning.flops import Composition, encode_flops, step_flops
from twotower.planning.sizes import Sizes


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a run: its share of the steps, and what each of them reads and scores."""

    share: float
    batch: Composition
    trains_embedder: bool


class Length(NamedTuple):
    """How long a run is."""

    steps: float
    events: float  # read in all stages, repeats counted


def mean_step(sizes: Sizes, stages: Sequence[StagePlan], *, recomputes: bool = False) -> float:
    """FLOPs of a step, as the mean over the stages."""
    return sum(
        stage.share * step_flops(sizes, stage.batch, trains_embedder=stage.trains_embedder, recomputes=recomputes).total
        for stage in stages
    )


def run_flops(
    sizes: Sizes, stages: Sequence[StagePlan], events: float, num_items: float = 0, *, recomputes: bool = False
) -> float:
    """Every term of a run that reads so many events. The catalogue is encoded once, before the stage that freezes it."""
    steps = events / _events_of_step(stages)
    return steps * mean_step(sizes, stages, recomputes=recomputes) + _encoding(sizes, stages, num_items)


def events_for(
    flops: float, sizes: Sizes, stages: Sequence[StagePlan], num_items: float = 0, *, recomputes: bool = False
) -> Length:
    """The run that a budget pays for when every term is counted. ValueError if it does not pay for a single step."""
    step = mean_step(sizes, stages, recomputes=recomputes)
    left = flops - _encoding(sizes, stages, num_items)
    if left < step:
        raise ValueError(f"{flops:.3g} FLOPs do not pay for one step of {step:.3g}: give more, or make batch or model smaller")
    return Length(left / step, left / step * _events_of_step(stages))


def events_by_convention(flops: float, parameters: float) -> float:
    """D of C = 6 N D."""
    return flops / (FLOPS_PER_PARAMETER_AND_EVENT * parameters)


def _events_of_step(stages: Sequence[StagePlan]) -> float:
    return sum(stage.share * stage.batch.events for stage in stages)


def _encoding(sizes: Sizes, stages: Sequence[StagePlan], num_items: float) -> float:
    return 0.0 if all(stage.trains_embedder for stage in stages) else encode_flops(sizes, num_items)
