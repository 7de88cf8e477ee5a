"""What a step differentiates: both towers as one module, whose forward pass is the loss of a batch.

D: vector width, N: items, C: candidates, Q: queries, P: popularity dimensions, M: past items of all queries
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

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
from twotower.model.searches import EncodedQueries, event_vectors, query_vectors


@dataclass(frozen=True, slots=True)
class Named:
    """Items and queries made from their words: the query shall find its item among some others, by inner product alone."""

    queries: EncodedQueries
    place_K: Tensor  # the items to find it among: columns of candidates, or rows of frozen items
    target_S: Tensor  # the place of each query's item in `place_K`
    weight: float  # of this part of the loss


@dataclass(frozen=True, slots=True)
class TrainedItems:
    """The candidates of a step and their features, which the step embeds with gradients."""

    drawn: Candidates
    features: EncodedRows
    named: Named | None = None


@dataclass(frozen=True, slots=True)
class FrozenItems:
    """Frozen vectors of the whole catalogue, and the pool that the step scores; None scores the whole catalogue."""

    vectors_ND: Tensor
    drawn: Candidates | None
    named: Named | None = None


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
        read_column_BL = drawn.column_of(batch.histories.item_rows_BL.clamp(min=0)).to(device)
        answer_column_A = drawn.column_of(batch.answer_rows_A).to(device)
        vectors_CD = self.embedder(*on(device, tensors(items.features))).float()
        searches_SD = self._query_vectors(batch.searches) if len(batch.searches) else vectors_CD[:0]
        batch = on(device, batch)
        past, day_Q = batch.past, torch.from_numpy(day_of_query).to(device)
        candidates = TrainedCandidates(vectors_CD, popularity_PTC, day_Q, bias_BC, batch.window_Q)
        place_M = day_Q[past.request_M] * len(vectors_CD) + past_column_M
        popularity_MP = popularity_PTC.flatten(1).index_select(1, place_M).T
        vectors = PastVectors(vectors_CD, past_column_M, popularity_MP)
        read_column_BL = torch.where(batch.histories.item_rows_BL < 0, batch.histories.item_rows_BL, read_column_BL)
        query_QV, repeat_M = self._queries(batch, event_vectors(vectors_CD, searches_SD, read_column_BL), vectors)
        answers = NextItems(batch.answer_query_A, answer_column_A, batch.answer_weights_A)
        loss = trained_set_loss(query_QV, candidates, PastPairs(past.request_M, past_column_M, repeat_M), answers)
        return loss + self._naming_loss(items.named, vectors_CD)

    def _frozen(self, batch: TrainBatch, items: FrozenItems) -> Tensor:
        """Exact over the whole catalogue, or estimated from a pool."""
        vectors_ND, drawn, device = items.vectors_ND, items.drawn, self.popularity_PTN.device
        day_Q = torch.from_numpy(self.snapshots.index(batch.now_ms_Q)).to(device)
        batch = on(device, batch)
        past = batch.past
        popularity_MP = self.popularity_PTN[:, day_Q[past.request_M], past.rows_M].T
        vectors = PastVectors.of(vectors_ND, past.rows_M, popularity_MP)
        searches_SD = self._query_vectors(batch.searches) if len(batch.searches) else vectors_ND[:0]
        query_QV, repeat_M = self._queries(batch, event_vectors(vectors_ND, searches_SD, batch.histories.item_rows_BL), vectors)
        if device.type == "cuda":
            self.popularity_PTN = aligned(self.popularity_PTN)  # pads and copies once; later steps find it aligned
        candidates: CandidateSet = WholeCatalogue(len(vectors_ND))
        if drawn is not None:
            candidates = Pool(torch.from_numpy(drawn.rows_C).to(device), torch.from_numpy(drawn.log_weight_C).to(device))
        loss = frozen_set_loss(
            query_QV,
            PastPairs(past.request_M, past.rows_M, repeat_M),
            NextItems(batch.answer_query_A, batch.answer_rows_A, batch.answer_weights_A),
            day_Q,
            ItemVectors(vectors_ND, self.popularity_PTN),
            candidates,
        )
        return loss + self._naming_loss(items.named, vectors_ND)

    def _query_vectors(self, queries: EncodedQueries) -> Tensor:
        """Vectors [S, D] of queries."""
        embedded_SD = self.embedder(*on(self.popularity_PTN.device, tensors(queries.items))).float()
        return query_vectors(self.contextualizer, embedded_SD, queries.words).float()

    def _naming_loss(self, named: Named | None, vectors_ND: Tensor) -> Tensor | float:
        """How surprising the item is that a query was made from, given the query alone: the cross-entropy over some items.

        Only the table of words learns from it: where items stand, their buyers decide.
        """
        if named is None:
            return 0.0
        place_K, target_S = named.place_K.to(vectors_ND.device), named.target_S.to(vectors_ND.device)
        with torch.no_grad():
            embedded_SD = self.embedder(*on(vectors_ND.device, tensors(named.queries.items))).float()
        scores_SK = query_vectors(self.contextualizer, embedded_SD, named.queries.words) @ vectors_ND[place_K].detach().T
        return named.weight * functional.cross_entropy(scores_SK.float(), target_S)

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
        searched_QD = read_BLD[batch.window_Q, batch.position_Q.clamp(min=0)] * batch.search_weight_Q[:, None]
        return self.contextualizer.queries(query_input, searched_QD).float(), repeat_M.float()


def hide_ids(rows: EncodedRows, model: ModelConfig, share: float, rng: np.random.Generator) -> None:
    """Zero the weights of the id hashes for a share of the rows, in place, so that vectors of new items rest on content."""
    hidden = rng.random(len(rows)) < share
    rows.weights_NS[hidden, : model.item_spec.num_id_hashes] = 0.0
