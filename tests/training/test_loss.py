"""The frozen loss streams over the catalogue and equals the loss over all scores, gradients too."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training import loss as loss_module
from training.loss import FrozenCatalogue, frozen_set_loss, set_loss
from training.snapshots import PopularitySnapshots
from twotower.features import DAY_MS


def test_set_loss_by_hand() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    loss = set_loss(scores, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([0.25, 0.25, 0.5]))
    assert loss.item() == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(4) + 0.5 * np.log(1 / 0.8), rel=1e-6)


@pytest.mark.parametrize(("num_items", "own_per_query"), [(7, 3), (64, 0), (65, 5), (200, 9)])
@pytest.mark.parametrize("num_popularity", [1, 2])
def test_streaming_equals_scoring_everything(
    monkeypatch: pytest.MonkeyPatch, num_items: int, own_per_query: int, num_popularity: int
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ITEMS", 64)
    torch.manual_seed(num_items)
    rng = np.random.default_rng(num_items)
    num_queries, width = 6, 8
    vectors = torch.randn(num_items, width)
    snapshots = PopularitySnapshots(rng.normal(size=(4, num_items, num_popularity)).astype(np.float32), 0, DAY_MS)
    now_ms = rng.integers(0, 4 * DAY_MS, num_queries)
    query = torch.randn(num_queries, width + num_popularity, requires_grad=True)
    own_rows = np.concatenate([np.sort(rng.choice(num_items, own_per_query, replace=False)) for _ in range(num_queries)])
    own_query = torch.from_numpy(np.repeat(np.arange(num_queries), own_per_query))
    repeat = (3 * torch.randn(len(own_rows))).requires_grad_()
    answer_query = torch.arange(num_queries).repeat_interleave(2)
    answer_rows = torch.from_numpy(np.concatenate([rng.choice(num_items, 2, replace=False) for _ in range(num_queries)]))
    weights = torch.rand(len(answer_rows))

    own = torch.from_numpy(own_rows).long()
    streamed = frozen_set_loss(
        query, repeat, own_query, own, now_ms, answer_query, answer_rows, weights, FrozenCatalogue(vectors, snapshots)
    )
    popularity = torch.from_numpy(snapshots.at(now_ms))
    scores = query[:, :width] @ vectors.T + torch.einsum("qp,qnp->qn", query[:, width:], popularity)
    scores = scores.index_put((own_query, own), repeat, accumulate=True)
    whole = set_loss(scores, answer_query, answer_rows, weights)

    torch.testing.assert_close(streamed, whole, rtol=1e-5, atol=1e-5)
    inputs: list[Tensor] = [query, repeat] if own_per_query else [query]
    for ours, truth in zip(torch.autograd.grad(streamed, inputs), torch.autograd.grad(whole, inputs), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)
