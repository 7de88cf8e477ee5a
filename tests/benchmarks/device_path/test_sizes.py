"""What is made up is what training and the job would hand over."""

import numpy as np

from benchmarks.device_path.sizes import SMALL, encoded_items, model_config, train_batch


def test_every_item_of_a_batch_is_among_the_candidates() -> None:
    batch, drawn = train_batch(model_config(SMALL), SMALL)
    for rows in (batch.histories.item_rows_BL, batch.past.rows_M, batch.answer_rows_A):
        assert np.isin(rows.numpy(), drawn.rows_C).all()
    assert abs(float(batch.answer_weights_A.sum()) - 1) < 1e-6


def test_slots_lie_in_the_table() -> None:
    config = model_config(SMALL)
    rows = encoded_items(config, 10)
    assert rows.slots_NS.shape[1] == sum(config.item_spec.slot_counts)
    assert rows.slots_NS.max() < config.table_rows
