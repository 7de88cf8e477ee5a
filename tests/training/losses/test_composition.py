"""What a step reads and scores is counted from its batch."""

import numpy as np

from tests.training.conftest import Shop
from training.losses.candidates import Candidates
from training.losses.composition import composition
from training.losses.objective import FrozenItems
from training.run.loop import draw_trained_items, embed_catalogue_once, prepare_training


def test_a_step_is_counted_from_its_batch(shop: Shop) -> None:
    """Three histories are padded to the longest, because so few are not worth a second pass."""
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    batch = inputs.sampler.sample(np.random.default_rng(0))
    trained = draw_trained_items(inputs, state, batch)
    counted, longest = composition(batch, trained), batch.histories.item_rows_BL.shape[1]
    assert counted.events == batch.histories.lengths_B.sum()
    assert counted.positions == 3 * longest
    assert counted.attention_pairs == 3 * longest * (longest + 1) / 2
    assert (counted.queries, counted.past_items) == (len(batch.window_Q), len(batch.past.rows_M))
    assert counted.candidates == counted.distinct_items == counted.distinct_past == len(trained.drawn.rows_C)
    assert counted.past_pairs >= counted.past_items, "a block of queries multiplies all its past items"


def test_a_pool_costs_what_it_holds_and_what_it_lacks(shop: Shop) -> None:
    """A pool of one item that nobody has: every past item and answer is scored beside it."""
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    batch = inputs.sampler.sample(np.random.default_rng(0))
    vectors_ND = embed_catalogue_once(inputs, state)
    certain = np.unique(np.concatenate([batch.past.rows_M.numpy(), batch.answer_rows_A.numpy()]))
    (stranger, *_) = np.setdiff1d(np.arange(len(vectors_ND)), certain)
    pools = [np.array([stranger]), np.arange(len(vectors_ND))]
    few, all_items = (
        composition(batch, FrozenItems(vectors_ND, Candidates(pool, np.zeros(len(pool), np.float32)))) for pool in pools
    )
    assert (few.candidates, few.distinct_items) == (1, 0)
    assert few.missing_pairs >= len(certain)
    assert all_items.missing_pairs == 0
    whole = composition(batch, FrozenItems(vectors_ND, None))
    assert (whole.candidates, whole.missing_pairs) == (len(vectors_ND), 0)
