"""What is differentiated: both towers as one module whose forward pass is the loss of a batch.

D: vector width, N: items, C: candidates, Q: queries, P: popularity dimensions, M: own items of all queries
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.batches import TrainBatch
from training.joint_loss import Answers, Own, Scored, joint_set_loss
from training.log_partition import FrozenCatalogue, Pool, Shard
from training.loss import frozen_set_loss
from training.negatives import Candidates, certain_items
from training.snapshots import PopularitySnapshots
from twotower.catalogue import tensors
from twotower.features import EncodedRows
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder
from twotower.own import OwnVectors


@dataclass(frozen=True, slots=True)
class SampledItems:
    """Candidates of a step with their features, to be embedded with gradients."""

    drawn: Candidates
    features: EncodedRows


@dataclass(frozen=True, slots=True)
class FrozenItems:
    """Fixed vectors of the whole catalogue, and the pool a step scores instead of all of it, if it draws one."""

    vectors_ND: Tensor
    drawn: Candidates | None


class Objective(nn.Module):
    """Both towers. Calling it is the whole of what a step differentiates, so that a wrapper can shard it."""

    def __init__(self, embedder: Embedder, contextualizer: Contextualizer, snapshots: PopularitySnapshots) -> None:
        super().__init__()
        self.embedder = embedder
        self.contextualizer = contextualizer
        self.snapshots = snapshots

    def forward(self, batch: TrainBatch, scored: SampledItems | FrozenItems) -> Tensor:
        """The set loss in nats, over sampled items or over fixed vectors."""
        return self._frozen(batch, scored) if isinstance(scored, FrozenItems) else self._sampled(batch, scored)

    def _sampled(self, batch: TrainBatch, sampled: SampledItems) -> Tensor:
        """Corrected for how the candidates were drawn."""
        drawn, vectors_CD, own = sampled.drawn, self.embedder(*tensors(sampled.features)), batch.own
        days, day_Q = np.unique(self.snapshots.index(batch.now_ms_Q), return_inverse=True)
        scored = Scored(
            vectors_CD=vectors_CD,
            popularity_TCP=torch.from_numpy(self.snapshots.table_TNP[days[:, None], drawn.rows_C]),
            day_Q=torch.from_numpy(day_Q),
            bias_BC=torch.where(certain_items(batch, drawn), 0.0, torch.from_numpy(drawn.log_weight_C)),
            window_Q=batch.window_Q,
        )
        own_column_M = drawn.column_of(own.rows_M)
        popularity_MP = scored.popularity_TCP[scored.day_Q[own.request_M], own_column_M]
        read_BLD = vectors_CD[drawn.column_of(batch.histories.item_rows_BL)]
        query_QV, repeat_M = self._queries(batch, read_BLD, OwnVectors(vectors_CD, own_column_M, popularity_MP))
        answers = Answers(batch.answer_query_A, drawn.column_of(batch.answer_rows_A), batch.answer_weights_A)
        return joint_set_loss(query_QV, scored, Own(own.request_M, own_column_M, repeat_M), answers)

    def _frozen(self, batch: TrainBatch, items: FrozenItems) -> Tensor:
        """Over the whole catalogue exactly, or estimated from a pool."""
        vectors_ND, drawn, own = items.vectors_ND, items.drawn, batch.own
        popularity_MP = self.snapshots.of_items(batch.now_ms_Q[own.request_M.numpy()], own.rows_M.numpy())
        vectors = OwnVectors.of(vectors_ND, own.rows_M, torch.from_numpy(popularity_MP))
        query_QV, repeat_M = self._queries(batch, vectors_ND[batch.histories.item_rows_BL], vectors)
        part = Shard(0, len(vectors_ND)) if drawn is None else Pool(*map(torch.from_numpy, (drawn.rows_C, drawn.log_weight_C)))
        return frozen_set_loss(
            query_QV,
            Own(own.request_M, own.rows_M, repeat_M),
            Answers(batch.answer_query_A, batch.answer_rows_A, batch.answer_weights_A),
            torch.from_numpy(self.snapshots.index(batch.now_ms_Q)),
            FrozenCatalogue(vectors_ND, torch.from_numpy(self.snapshots.table_TNP).movedim(2, 0)),
            [part],
        )

    def _queries(self, batch: TrainBatch, read_BLD: Tensor, vectors: OwnVectors) -> tuple[Tensor, Tensor]:
        """Query vectors [Q, V] and repeat scores [M], from the vectors of the events read and of the own items."""
        hidden_BLD = self.contextualizer(read_BLD, batch.histories)
        hidden_QD = hidden_BLD[batch.window_Q, batch.position_Q.clamp(min=0)]
        query_input = self.contextualizer.query_input(
            hidden_QD, batch.position_Q < 0, batch.request_Q7, batch.wanted_QS, batch.wanted_weights_QS, batch.own, vectors
        )
        repeat_M = self.contextualizer.repeat_scores(query_input, batch.own, vectors)
        return self.contextualizer.queries(query_input), repeat_M


def hide_ids(rows: EncodedRows, model: ModelConfig, share: float, rng: np.random.Generator) -> None:
    """Silence the id's hashes for a share of the rows, in place, so that an unseen item can stand on its content."""
    hidden = rng.random(len(rows)) < share
    rows.weights_NS[hidden, : model.item_spec.num_id_hashes] = 0.0
