"""What a step differentiates: both towers as one module, whose forward pass is the loss of a batch.

D: vector width, N: items, C: candidates, Q: queries, P: popularity dimensions, M: past items of all queries
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.data.batches import TrainBatch
from training.data.popularity_snapshots import PopularitySnapshots
from training.kernels.candidates import CandidateSet, ItemVectors, Pool, WholeCatalogue, aligned
from training.kernels.trained_softmax import PastPairs, TrainedCandidates
from training.losses.candidates import Candidates, certain_items
from training.losses.frozen_loss import frozen_set_loss
from training.losses.trained_loss import NextItems, trained_set_loss
from twotower.data.features import EncodedRows
from twotower.data.past_items import PastVectors
from twotower.device import on
from twotower.model.catalogue import tensors
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder


@dataclass(frozen=True, slots=True)
class TrainedItems:
    """The candidates of a step and their features, which the step embeds with gradients."""

    drawn: Candidates
    features: EncodedRows


@dataclass(frozen=True, slots=True)
class FrozenItems:
    """Frozen vectors of the whole catalogue, and the pool that the step scores; None scores the whole catalogue."""

    vectors_ND: Tensor
    drawn: Candidates | None


class Objective(nn.Module):
    """Both towers. A step differentiates one call of this module and nothing else, so that a wrapper can shard it.

    Batches come from the CPU and numpy lookups happen there; all else runs on the device of the weights.
    """

    popularity_PTN: Tensor

    def __init__(self, embedder: Embedder, contextualizer: Contextualizer, snapshots: PopularitySnapshots) -> None:
        super().__init__()
        self.embedder = embedder
        self.contextualizer = contextualizer
        self.snapshots = snapshots
        self.register_buffer("popularity_PTN", torch.from_numpy(snapshots.table_PTN), persistent=False)

    def forward(self, batch: TrainBatch, items: TrainedItems | FrozenItems) -> Tensor:
        """The set loss in nats, over items that are trained (stage 1) or frozen (stage 2)."""
        return self._frozen(batch, items) if isinstance(items, FrozenItems) else self._trained(batch, items)

    def _trained(self, batch: TrainBatch, items: TrainedItems) -> Tensor:
        """Corrected for how the candidates were drawn."""
        drawn, device = items.drawn, self.popularity_PTN.device
        days, day_of_query = np.unique(self.snapshots.index(batch.now_ms_Q), return_inverse=True)
        popularity_PTC = torch.from_numpy(self.snapshots.on_days(days, drawn.rows_C)).to(device)
        bias_BC = torch.where(certain_items(batch, drawn), 0.0, torch.from_numpy(drawn.log_weight_C)).to(device)
        past_column_M = drawn.column_of(batch.past.rows_M).to(device)
        read_column_BL = drawn.column_of(batch.histories.item_rows_BL).to(device)
        answer_column_A = drawn.column_of(batch.answer_rows_A).to(device)
        vectors_CD = self.embedder(*on(device, tensors(items.features))).float()
        batch = on(device, batch)
        past, day_Q = batch.past, torch.from_numpy(day_of_query).to(device)
        candidates = TrainedCandidates(vectors_CD, popularity_PTC, day_Q, bias_BC, batch.window_Q)
        place_M = day_Q[past.request_M] * len(vectors_CD) + past_column_M
        popularity_MP = popularity_PTC.flatten(1).index_select(1, place_M).T
        vectors = PastVectors(vectors_CD, past_column_M, popularity_MP)
        query_QV, repeat_M = self._queries(batch, vectors_CD[read_column_BL], vectors)
        answers = NextItems(batch.answer_query_A, answer_column_A, batch.answer_weights_A)
        return trained_set_loss(query_QV, candidates, PastPairs(past.request_M, past_column_M, repeat_M), answers)

    def _frozen(self, batch: TrainBatch, items: FrozenItems) -> Tensor:
        """Exact over the whole catalogue, or estimated from a pool."""
        vectors_ND, drawn, device = items.vectors_ND, items.drawn, self.popularity_PTN.device
        day_Q = torch.from_numpy(self.snapshots.index(batch.now_ms_Q)).to(device)
        batch = on(device, batch)
        past = batch.past
        popularity_MP = self.popularity_PTN[:, day_Q[past.request_M], past.rows_M].T
        vectors = PastVectors.of(vectors_ND, past.rows_M, popularity_MP)
        query_QV, repeat_M = self._queries(batch, vectors_ND[batch.histories.item_rows_BL], vectors)
        if device.type == "cuda":
            self.popularity_PTN = aligned(self.popularity_PTN)  # pads and copies once; later steps find it aligned
        candidates: CandidateSet = WholeCatalogue(len(vectors_ND))
        if drawn is not None:
            candidates = Pool(torch.from_numpy(drawn.rows_C).to(device), torch.from_numpy(drawn.log_weight_C).to(device))
        return frozen_set_loss(
            query_QV,
            PastPairs(past.request_M, past.rows_M, repeat_M),
            NextItems(batch.answer_query_A, batch.answer_rows_A, batch.answer_weights_A),
            day_Q,
            ItemVectors(vectors_ND, self.popularity_PTN),
            candidates,
        )

    def _queries(self, batch: TrainBatch, read_BLD: Tensor, vectors: PastVectors) -> tuple[Tensor, Tensor]:
        """Query vectors [Q, V] and repeat scores [M], from the vectors of the events and of the past items.

        Under autocast, sums over items or events stay in single precision: vectors, residual stream and scores.
        """
        hidden_BLD = self.contextualizer(read_BLD, batch.histories)
        hidden_QD = hidden_BLD[batch.window_Q, batch.position_Q.clamp(min=0)]
        query_input = self.contextualizer.query_input(
            hidden_QD, batch.position_Q < 0, batch.request_Q7, batch.wanted_QS, batch.wanted_weights_QS, batch.past, vectors
        )
        repeat_M = self.contextualizer.repeat_scores(query_input, batch.past, vectors)
        return self.contextualizer.queries(query_input).float(), repeat_M.float()


def hide_ids(rows: EncodedRows, model: ModelConfig, share: float, rng: np.random.Generator) -> None:
    """Zero the weights of the id hashes for a share of the rows, in place, so that vectors of new items rest on content."""
    hidden = rng.random(len(rows)) < share
    rows.weights_NS[hidden, : model.item_spec.num_id_hashes] = 0.0
