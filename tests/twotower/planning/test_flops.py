"""The closed forms give, to the last FLOP, what torch's counter counts on the real towers and losses.

The counter sees products of matrices. It does not know that attention is causal, so it counts every pair of two positions, and
is compared with closed forms that do too. It has no entry for attention on a CPU, for which it gets its own formula of a GPU's.
Lookups and the popularity columns of scores are no products; they are worked by hand below.
"""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tests.training.conftest import TINY, Shop, read_shop
from training.losses.candidates import Candidates
from training.losses.composition import composition
from training.losses.objective import FrozenItems, TrainedItems
from training.recipes.budget import sizes_of
from training.run.loop import draw_trained_items, embed_catalogue_once, prepare_training
from twotower.model.contextualizer import length_groups
from twotower.planning.flops import Composition, encode_flops, model_flops, step_flops
from twotower.planning.sizes import Sizes

Shapes = tuple[int, ...]


def attended(q: Shapes, k: Shapes, v: Shapes, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """The counter's formula wants as many heads of keys as of queries."""
    return int(sdpa_flop_count(q, (*q[:2], *k[2:]), (*q[:2], *v[2:])))  # type: ignore[no-untyped-call]


def attended_backward(grad: Shapes, q: Shapes, k: Shapes, v: Shapes, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad, q, (*q[:2], *k[2:]), (*q[:2], *v[2:])))  # type: ignore[no-untyped-call]


def added_product(base: Shapes, left: Shapes, right: Shapes, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * math.prod(left) * right[1]


aten = torch.ops.aten
UNKNOWN_TO_THE_COUNTER = {
    aten._scaled_dot_product_flash_attention_for_cpu: attended,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attended_backward,
    aten.addmm_: added_product,
}


@pytest.fixture(scope="module")
def wide_shop(tiny_shop: Path) -> Shop:
    return read_shop(tiny_shop, msgspec.structs.replace(TINY, width=64, batch_windows=4, max_queries=200))


@pytest.mark.parametrize("seed", range(20))
def test_twenty_random_models_cost_what_the_counter_counts(wide_shop: Shop, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_heads = int(rng.choice([2, 4]))
    model = msgspec.structs.replace(
        wide_shop.model,
        width=int(rng.choice([32, 48, 64, 96])),
        num_layers=int(rng.integers(1, 5)),
        num_heads=num_heads,
        num_kv_heads=int(rng.choice([1, 2, num_heads])),
        ffn_width=int(rng.integers(4, 32)) * 8,
        past_heads=int(rng.choice([0, 2, 4])),
        popularity_hidden=int(rng.choice([16, 64])),
        repeat_hidden=int(rng.choice([8, 32])),
        embedder=str(rng.choice(["mlp", "tab_transformer", "bag"])),
        embedder_hidden=int(rng.integers(8, 100)),
        table_rows=int(rng.integers(64, 900)),
        clock=bool(rng.random() < 0.7),
    )
    config = msgspec.structs.replace(wide_shop.config, batch_windows=int(rng.integers(2, 24)))
    shop = Shop(wide_shop.data, with_rows(model, wide_shop), wide_shop.items, config)
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    batch = inputs.sampler.sample(rng)
    vectors_ND = embed_catalogue_once(inputs, state)
    pool = np.sort(rng.choice(len(vectors_ND), int(rng.integers(20, 200)), replace=False))
    frozen = FrozenItems(vectors_ND, Candidates(pool, np.zeros(len(pool), np.float32)))
    scored: tuple[TrainedItems | FrozenItems, ...] = (
        draw_trained_items(inputs, state, batch),
        FrozenItems(vectors_ND, None),
        frozen,
    )
    items = scored[seed % 3]
    trains_embedder = isinstance(items, TrainedItems)
    state.objective.embedder.requires_grad_(trains_embedder)
    counter = FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_THE_COUNTER)
    with counter:
        state.objective(batch, items).backward()
    lengths = length_groups(batch.histories.lengths_B, batch.histories.item_rows_BL.shape[1])
    whole = msgspec.structs.replace(composition(batch, items), attention_pairs=sum(len(b) * length**2 for b, length in lengths))
    expected = step_flops(sizes_of(shop.model), whole, trains_embedder=trains_embedder)
    assert expected.products == counter.get_total_flops()


def with_rows(model: Any, shop: Shop) -> Any:
    """The shop's items are encoded for its own table, so a smaller one cannot hold their slots."""
    return msgspec.structs.replace(model, table_rows=max(model.table_rows, shop.model.table_rows))


def test_without_these_entries_the_counter_sees_no_attention_on_a_cpu_and_no_sum_into_a_matrix() -> None:
    q = torch.randn(1, 2, 16, 8)
    with FlopCounterMode(display=False) as blind:
        torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        torch.zeros(4, 4).addmm_(torch.randn(4, 8), torch.randn(8, 4))
    assert blind.get_total_flops() == 0, "once it sees them, UNKNOWN_TO_THE_COUNTER is no longer needed"


SIZES = Sizes(width=8, num_layers=2, num_heads=2, num_kv_heads=1, ffn_width=16)
BATCH = Composition(positions=10, attention_pairs=55, queries=3, candidates=100, distinct_items=100)


def test_causal_attention_costs_half_of_all_pairs() -> None:
    """Ten positions have 55 pairs; two products of width 8 forward and five backward, in two layers."""
    assert step_flops(SIZES, BATCH, trains_embedder=True).attention == 2 * 55 * 8 * 2 * (2 + 5)


def test_scores_cost_six_per_number_in_stage_1_four_in_stage_2_and_eight_when_computed_twice() -> None:
    frozen = msgspec.structs.replace(BATCH, distinct_items=0)
    assert step_flops(SIZES, BATCH, trains_embedder=True).scoring == 6 * 8 * 3 * 100
    assert step_flops(SIZES, frozen, trains_embedder=False).scoring == 4 * 8 * 3 * 100
    assert step_flops(SIZES, BATCH, trains_embedder=True, recomputes=True).scoring == 8 * 8 * 3 * 100


def test_what_no_counter_sees_is_counted_by_hand() -> None:
    """Items: 33 slots of rows of 8. Events and queries: 2 slots of rows of 8. Four FLOPs each; popularity has 2 columns."""
    cost = step_flops(SIZES, BATCH, trains_embedder=True)
    assert cost.lookups == 4 * (100 * 33 * 8 + (10 + 3) * 2 * 8)
    assert cost.popularity == 4 * 3 * 100 * 2
    assert cost.products == cost.total - cost.lookups - cost.popularity


def test_a_frozen_embedder_costs_one_pass_over_the_catalogue() -> None:
    """Forward: an MLP of (49 + 8) x 8 weights, and 33 lookups of 8 numbers."""
    frozen = step_flops(SIZES, msgspec.structs.replace(BATCH, distinct_items=0), trains_embedder=False)
    assert frozen.embedder == 0
    assert encode_flops(SIZES, 1000) == 1000 * 2 * (57 * 8 + 33 * 8)


def test_the_convention_stands_beside() -> None:
    assert model_flops(SIZES, 1000) > 6 * 1000 * 256 * 8, "the table of event types alone has so many parameters"
