"""Peers for the races, where their packages are installed. Nothing else in this project needs these packages.

flashlib is left out: its search is by Euclidean distance, ours by inner product.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Contenders = dict[str, Callable[..., Any]]
CHUNK = 1 << 16  # candidates whose scores are in memory at once


def search_peers(rows_ND: Tensor, k: int) -> Contenders:
    """Implementations that return the k best rows by inner product."""

    def eager(queries_QD: Tensor) -> Tensor:
        return (queries_QD.to(rows_ND.dtype) @ rows_ND.T).topk(k).indices

    peers: Contenders = {} if rows_ND.device.type == "cpu" else {"torch": eager, "torch.compile": torch.compile(eager)}
    if rows_ND.is_cuda and find_spec("faiss"):
        import faiss.contrib.torch_utils

        if hasattr(faiss, "StandardGpuResources"):
            resources = faiss.StandardGpuResources()
            peers["FAISS flat"] = lambda queries_QD: faiss.knn_gpu(
                resources, queries_QD, rows_ND, k, metric=faiss.METRIC_INNER_PRODUCT, vectorsMemoryLimit=1 << 33
            )[1]
    if rows_ND.is_cuda and find_spec("cuvs"):
        from cuvs.neighbors import brute_force

        index = brute_force.build(rows_ND, metric="inner_product")
        peers["cuVS flat"] = lambda queries_QD: torch.as_tensor(
            brute_force.search(index, queries_QD.to(rows_ND.dtype), k)[1], device=rows_ND.device
        )
    return peers


def loss_peers(vectors_ND: Tensor) -> Contenders:
    """Implementations of log partitions and their gradients with respect to queries, together [Q, 1 + D]."""

    def chunked(queries_QD: Tensor) -> Tensor:
        queries_QD = queries_QD.to(vectors_ND.dtype)
        highest_Q1 = torch.full((len(queries_QD), 1), -torch.inf, device=vectors_ND.device)
        total_Q1, sum_QD = torch.zeros_like(highest_Q1), torch.zeros(queries_QD.shape, device=vectors_ND.device)
        for part_CD in torch.split(vectors_ND, CHUNK):
            scores_QC = (queries_QD @ part_CD.T).float()
            above_Q1 = torch.maximum(highest_Q1, scores_QC.amax(1, keepdim=True))
            weights_QC, decay_Q1 = (scores_QC - above_Q1).exp(), (highest_Q1 - above_Q1).exp()
            total_Q1 = total_Q1 * decay_Q1 + weights_QC.sum(1, keepdim=True)
            sum_QD = sum_QD * decay_Q1 + weights_QC.to(vectors_ND.dtype) @ part_CD
            highest_Q1 = above_Q1
        return torch.cat([highest_Q1 + total_Q1.log(), sum_QD / total_Q1], 1)

    peers: Contenders = {"torch chunked": chunked}
    if vectors_ND.is_cuda:
        peers["torch.compile chunked"] = torch.compile(chunked)
        if hasattr(functional, "linear_cross_entropy"):
            peers["F.linear_cross_entropy"] = _with_gradient(vectors_ND, functional.linear_cross_entropy)
        if find_spec("cut_cross_entropy"):
            from cut_cross_entropy import linear_cross_entropy

            peers["cut cross-entropy"] = _with_gradient(vectors_ND, linear_cross_entropy)
        if find_spec("liger_kernel"):
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            liger = LigerFusedLinearCrossEntropyLoss(reduction="none")
            peers["Liger"] = _with_gradient(vectors_ND, lambda queries, vectors, target, **_: liger(vectors, queries, target))
    return peers


def _with_gradient(vectors_ND: Tensor, loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """Turn a cross-entropy with target item 0 into log partitions and their gradients, so that answers can be compared."""

    def run(queries_QD: Tensor) -> Tensor:
        queries_QD = queries_QD.to(vectors_ND.dtype).requires_grad_()
        target_Q = torch.zeros(len(queries_QD), dtype=torch.int64, device=queries_QD.device)
        loss_Q = loss(queries_QD, vectors_ND, target_Q, reduction="none")
        (grad_QD,) = torch.autograd.grad(loss_Q.sum(), queries_QD)
        score_Q = queries_QD.detach().float() @ vectors_ND[0].float()
        return torch.cat([(loss_Q.detach().float() + score_Q)[:, None], grad_QD.float() + vectors_ND[0].float()], 1)

    return run
