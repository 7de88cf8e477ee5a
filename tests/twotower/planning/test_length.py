"""A budget pays for as many events as their steps cost."""

import msgspec
import pytest

from twotower.planning.flops import Composition, encode_flops, step_flops
from twotower.planning.length import StagePlan, events_by_convention, events_for, run_flops
from twotower.planning.sizes import Sizes

SIZES = Sizes(width=32, num_layers=2, num_heads=2, num_kv_heads=1, ffn_width=80)
BOTH = Composition(events=256, positions=300, attention_pairs=30_000, queries=64, candidates=500, distinct_items=500)
FROZEN = msgspec.structs.replace(BOTH, candidates=2000, distinct_items=0)
STAGES = (StagePlan(share=0.6, batch=BOTH, trains_embedder=True), StagePlan(share=0.4, batch=FROZEN, trains_embedder=False))


def test_a_run_costs_its_steps_and_one_encoding_of_the_catalogue() -> None:
    steps = step_flops(SIZES, BOTH, trains_embedder=True).total * 6 + step_flops(SIZES, FROZEN, trains_embedder=False).total * 4
    assert run_flops(SIZES, STAGES, 10 * 256, num_items=1000) == pytest.approx(steps + encode_flops(SIZES, 1000))


def test_a_stage_that_trains_the_embedder_needs_no_encoding() -> None:
    stages = (msgspec.structs.replace(STAGES[0], share=1.0),)
    assert run_flops(SIZES, stages, 256, num_items=1000) == pytest.approx(step_flops(SIZES, BOTH, trains_embedder=True).total)


@pytest.mark.parametrize("events", [256, 1e6, 1e9])
def test_the_budget_of_a_run_pays_for_its_events(events: float) -> None:
    length = events_for(run_flops(SIZES, STAGES, events, num_items=1000), SIZES, STAGES, num_items=1000)
    assert length.events == pytest.approx(events)
    assert length.steps == pytest.approx(events / 256)


def test_a_budget_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="do not pay for one step"):
        events_for(1e6, SIZES, STAGES)


def test_the_convention_counts_parameters_alone() -> None:
    assert events_by_convention(6e9, 1000) == 1e6
