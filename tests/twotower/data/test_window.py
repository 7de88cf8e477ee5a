"""The anchored window moves every 64 events and is never longer than 256."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.features import EncodedRows
from twotower.data.window import PAGE, WINDOW, History, anchor, collate


def history(length: int) -> History:
    context = EncodedRows(np.ones((length, 2), np.int32), np.ones((length, 2), np.float32), np.ones((length, 1), np.float32))
    return History(np.arange(1, length + 1), np.arange(length) * 1000, context)


def test_a_short_history_is_read_whole() -> None:
    assert [anchor(n) for n in (0, 1, 256)] == [0, 0, 0]


def test_the_anchor_moves_by_pages() -> None:
    assert [anchor(n) for n in (257, 320, 321, 1000)] == [64, 64, 128, 768]


@given(st.integers(WINDOW + 1, 10**7))
def test_a_long_context_is_between_193_and_256_events(num_events: int) -> None:
    first = anchor(num_events)
    assert first % PAGE == 0
    assert WINDOW - PAGE < num_events - first <= WINDOW


def test_padding_stands_on_the_right() -> None:
    batch = collate([history(3), history(1)])
    assert batch.item_rows_BL.tolist() == [[1, 2, 3], [1, 0, 0]]
    assert batch.lengths_B.tolist() == [3, 1]
    assert batch.weights_BLS[1, 1:].sum() == 0


def test_an_empty_history_still_has_a_place() -> None:
    assert collate([history(0)]).item_rows_BL.shape == (1, 1)
