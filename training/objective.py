"""What is differentiated: both towers as one module whose forward pass is the loss of a batch.

D: vector width, N: items, C: candidates, Q: queries, P: popularity dimensions, M: own items of all queries
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.batches import TrainBatch
from training.loss import FrozenCatalogue, correct_for_sampling, frozen_set_loss, set_loss
from training.negatives import Candidates, certain_items
from training.snapshots import PopularitySnapshots
from twotower.catalogue import tensors
from twotower.features import EncodedRows
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder


@dataclass(frozen=True, slots=True)
class SampledItems:
    """Candidates of a step with their features, to be embedded with gradients."""

    drawn: Candidates
    features: EncodedRows


class Objective(nn.Module):
    """Both towers. Calling it is the whole of what a step differentiates, so that a wrapper can shard it."""

    def __init__(self, embedder: Embedder, contextualizer: Contextualizer, snapshots: PopularitySnapshots) -> None:
        super().__init__()
        self.embedder = embedder
        self.contextualizer = contextualizer
        self.snapshots = snapshots

    def forward(self, batch: TrainBatch, scored: SampledItems | Tensor) -> Tensor:
        """The set loss in nats, over sampled items or over the whole catalogue's fixed vectors [N, D]."""
        return self._exact(batch, scored) if isinstance(scored, Tensor) else self._sampled(batch, scored)

    def _sampled(self, batch: TrainBatch, scored: SampledItems) -> Tensor:
        """Corrected for how the candidates were drawn."""
        drawn, vectors_CD = scored.drawn, self.embedder(*tensors(scored.features))
        query_input = self._query_input(batch, vectors_CD[drawn.column_of(batch.histories.item_rows_BL)])
        popularity_QCP = torch.from_numpy(self.snapshots.of_items(batch.now_ms_Q[:, None], drawn.rows_C))
        scores_QC = self._candidate_scores(batch, query_input, vectors_CD, popularity_QCP, drawn.column_of(batch.own.rows_M))
        certain_QC = certain_items(batch, drawn)[batch.window_Q]
        corrected_QC = correct_for_sampling(scores_QC, torch.from_numpy(drawn.log_weight_C), certain_QC)
        return set_loss(corrected_QC, batch.answer_query_A, drawn.column_of(batch.answer_rows_A), batch.answer_weights_A)

    def _exact(self, batch: TrainBatch, vectors_ND: Tensor) -> Tensor:
        query_input = self._query_input(batch, vectors_ND[batch.histories.item_rows_BL])
        own = batch.own
        popularity_MP = self.snapshots.of_items(batch.now_ms_Q[own.request_M.numpy()], own.rows_M.numpy())
        return frozen_set_loss(
            self.contextualizer.queries(query_input),
            self.contextualizer.repeat_scores(query_input, own.request_M, own.features_M6, torch.from_numpy(popularity_MP)),
            own.request_M,
            own.rows_M,
            batch.now_ms_Q,
            batch.answer_query_A,
            batch.answer_rows_A,
            batch.answer_weights_A,
            FrozenCatalogue(vectors_ND, self.snapshots),
        )

    def _query_input(self, batch: TrainBatch, inputs_BLD: Tensor) -> Tensor:
        """What every query knows of its history and of its request."""
        hidden_BLD = self.contextualizer(inputs_BLD, batch.histories)
        hidden_QD = hidden_BLD[batch.window_Q, batch.position_Q.clamp(min=0)]
        return self.contextualizer.query_input(
            hidden_QD, batch.position_Q < 0, batch.request_Q7, batch.wanted_QS, batch.wanted_weights_QS
        )

    def _candidate_scores(
        self, batch: TrainBatch, query_input: Tensor, vectors_CD: Tensor, popularity_QCP: Tensor, own_column_M: Tensor
    ) -> Tensor:
        """Scores [Q, C] of every candidate, each query under the popularity of its own day."""
        query_QV = self.contextualizer.queries(query_input)
        width = vectors_CD.shape[1]
        scores_QC = query_QV[:, :width] @ vectors_CD.T
        scores_QC = scores_QC + torch.einsum("qp,qcp->qc", query_QV[:, width:], popularity_QCP)
        own, own_popularity_MP = batch.own, popularity_QCP[batch.own.request_M, own_column_M]
        repeat_M = self.contextualizer.repeat_scores(query_input, own.request_M, own.features_M6, own_popularity_MP)
        return scores_QC.index_put((own.request_M, own_column_M), repeat_M, accumulate=True)


def hide_ids(rows: EncodedRows, model: ModelConfig, share: float, rng: np.random.Generator) -> None:
    """Silence the id's hashes for a share of the rows, in place, so that an unseen item can stand on its content."""
    hidden = rng.random(len(rows)) < share
    rows.weights_NS[hidden, : model.item_spec.num_id_hashes] = 0.0
