"""Attention over a user's past items, several users at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from twotower.artefacts.bundle import load_bundle
from twotower.data.features import DAY_MS
from twotower.data.item_statistics import ItemStatistics, item_statistics
from twotower.data.past_items import PastItems, PastVectors, join_statistics, past_items
from twotower.model.past_attention import PastAttention, dots_of_pairs, segment_softmax

USERS: tuple[list[int], ...] = ([3, 3, 5], [], [7, 1, 1, 1])


def statistics_of(rows: list[int]) -> ItemStatistics:
    return item_statistics(np.array(rows, np.int64), np.arange(len(rows)) * DAY_MS)


def vectors_of(vectors_ND: Tensor, past: PastItems) -> PastVectors:
    return PastVectors.of(vectors_ND, past.rows_M, torch.zeros(len(past.rows_M), 1))


def test_segments_sum_to_one_each() -> None:
    weights = segment_softmax(torch.tensor([[0.0, 5.0], [0.0, 5.0], [90.0, -90.0]]), torch.tensor([0, 0, 2]), 3)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]))


@pytest.mark.parametrize("num_keys", [3, 500])
def test_pairs_are_scored_alike_by_either_way(num_keys: int) -> None:
    torch.manual_seed(0)
    query_QHE, key_UHE = torch.randn(2, 4, 8), torch.randn(num_keys, 4, 8)
    query_M, key_M = torch.tensor([0, 0, 1, 1, 1]), torch.randint(num_keys, (5,))
    by_hand = torch.stack([(query_QHE[q] * key_UHE[k]).sum(1) for q, k in zip(query_M, key_M, strict=True)])
    torch.testing.assert_close(dots_of_pairs(query_QHE, key_UHE, query_M, key_M), by_hand)


def test_requests_in_blocks_get_what_pairs_one_by_one_give(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same gradients, whatever the size of a block; some requests have no items."""
    towers = load_bundle(tiny_bundle).towers
    attention, width = towers.contextualizer.past_attention, towers.config.model.width
    assert isinstance(attention, PastAttention)
    histories = [[(3 * user + event) % 11 for event in range(user % 5)] for user in range(40)]
    past = past_items(*join_statistics([statistics_of(rows) for rows in histories]), np.full(40, 9 * DAY_MS))
    items_UD = torch.randn(11, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    query_QX = torch.randn(40, attention.query.out_features, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pairs_QD = attention._attend_pairs(query_QX, items_UD, past, past.rows_M)
    wanted = torch.autograd.grad(pairs_QD.square().sum(), [query_QX, items_UD])
    for block_pairs in (1, 50, 2**17):
        monkeypatch.setattr("twotower.model.past_attention.BLOCK_PAIRS", block_pairs)
        blocks_QD = attention._attend_blocks(query_QX, items_UD, past, past.rows_M)
        torch.testing.assert_close(blocks_QD, pairs_QD)
        gradients = torch.autograd.grad(blocks_QD.square().sum(), [query_QX, items_UD])
        torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-4)  # sums whose terms nearly cancel


def test_a_user_is_answered_alike_alone_and_among_others(tiny_bundle: Path) -> None:
    """And a user without items gets nothing."""
    towers = load_bundle(tiny_bundle).towers
    attention, width = towers.contextualizer.past_attention, towers.config.model.width
    assert attention is not None
    vectors_ND = torch.randn(10, width, generator=torch.Generator().manual_seed(0))
    query_input_QX = torch.randn(len(USERS), attention.query.in_features, generator=torch.Generator().manual_seed(1))
    now_ms = np.full(len(USERS), 9 * DAY_MS)
    together = past_items(*join_statistics([statistics_of(rows) for rows in USERS]), now_ms)
    with torch.inference_mode():
        taste_QD = attention(query_input_QX, together, vectors_of(vectors_ND, together))
        assert torch.equal(taste_QD[1], torch.zeros(width))
        for user in (0, 2):
            alone = past_items(*join_statistics([statistics_of(USERS[user])]), now_ms[:1])
            mine = attention(query_input_QX[user : user + 1], alone, vectors_of(vectors_ND, alone))
            torch.testing.assert_close(taste_QD[user], mine[0], rtol=1e-5, atol=1e-6)
