"""score(u, j) = <query_u, [e_j, popularity_j]> + [j is a past item of u] * repeat(u, j), for requests that are read whole.

This is the definition. The same score is computed again where more is known: `service.model.incremental` reads only what is
new of a request and keeps the rest, `training.losses` wants gradients, `twotower.index.search` sums in float64.

Q: requests, V: vector width (D + P), D: item vector width, P: popularity dimensions and signals,
M: past items of all requests, N: items, R: some rows of them
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twotower.data.features import encode_wanted, request_time_features
from twotower.data.item_statistics import ItemStatistics
from twotower.data.past_items import PastItems, PastVectors, join_statistics, past_items
from twotower.data.window import History, collate
from twotower.device import on
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.searches import event_vectors, search_weight


@dataclass(frozen=True, slots=True)
class Request:
    """What the model reads of one user at one moment."""

    history: History
    statistics: ItemStatistics
    now_ms: int
    wanted_event_type: str | None = None


@dataclass(frozen=True, slots=True)
class Queries:
    """Query vectors, and the repeat scores of the past items of the requests."""

    vectors_QV: Tensor
    past_request_M: Tensor
    past_rows_M: Tensor
    repeat_M: Tensor

    def past_scores(self, item_vectors_NV: Tensor) -> Tensor:
        """Scores of all past items, the repeat score included, [M]."""
        dots = (self.vectors_QV[self.past_request_M] * item_vectors_NV[self.past_rows_M]).sum(-1)
        return dots + self.repeat_M

    def dense_scores(self, item_vectors_NV: Tensor) -> Tensor:
        """Scores of the whole catalogue, the repeat scores included, [Q, N]."""
        return self.add_repeat_scores(self.vectors_QV @ item_vectors_NV.T, torch.arange(len(item_vectors_NV)))

    def add_repeat_scores(self, scores_QR: Tensor, rows_R: Tensor) -> Tensor:
        """Add the repeat scores of past items to the scores of some rows, distinct and ascending. Changes `scores_QR`."""
        place_M = torch.searchsorted(rows_R, self.past_rows_M).clamp(max=len(rows_R) - 1)
        here_M = rows_R[place_M] == self.past_rows_M
        scores_QR[self.past_request_M[here_M], place_M[here_M]] += self.repeat_M[here_M]
        return scores_QR


@torch.inference_mode()
def answer(
    contextualizer: Contextualizer,
    config: ModelConfig,
    item_vectors_NV: Tensor,
    requests: Sequence[Request],
    searches_SD: Tensor | None = None,
) -> Queries:
    """Queries of a batch of requests. Each depends on its own request alone.

    `searches_SD` has the vectors of the searches of all histories, in order; None if there are none.
    """
    vectors_ND, popularity_NP = item_vectors_NV[:, : config.width], item_vectors_NV[:, config.width :]
    return answer_as_of(contextualizer, config, vectors_ND, popularity_NP, requests, searches_SD)


@torch.inference_mode()
def answer_as_of(
    contextualizer: Contextualizer,
    config: ModelConfig,
    vectors_ND: Tensor,
    popularity_NP: Tensor,
    requests: Sequence[Request],
    searches_SD: Tensor | None = None,
) -> Queries:
    """As `answer`, with popularity given apart from the vectors, so that it may be of any moment."""
    device = vectors_ND.device
    batch = on(device, collate([r.history for r in requests]))
    read_BLD = event_vectors(vectors_ND, vectors_ND[:0] if searches_SD is None else searches_SD, batch.item_rows_BL)
    last = torch.arange(len(requests), device=device), (batch.lengths_B - 1).clamp(min=0)
    hidden_QD, read_QD = contextualizer(read_BLD, batch)[last], read_BLD[last]
    past = on(device, past_items(*join_statistics([r.statistics for r in requests]), np.array([r.now_ms for r in requests])))
    vectors = PastVectors(vectors_ND[past.rows_M], torch.arange(len(past.rows_M), device=device), popularity_NP[past.rows_M])
    return queries_from_hidden(contextualizer, config, hidden_QD, read_QD, requests, past, vectors)


@torch.inference_mode()
def queries_from_hidden(
    contextualizer: Contextualizer,
    config: ModelConfig,
    hidden_QD: Tensor,
    read_QD: Tensor,
    requests: Sequence[Request],
    past: PastItems,
    vectors: PastVectors,
) -> Queries:
    """Queries from the hidden state after each request's last event and the vector of that event, on the device of these."""
    now = np.array([r.now_ms for r in requests])
    last = np.array([r.history.times_ms_L[-1] if len(r.history) else r.now_ms for r in requests])
    wanted = encode_wanted([r.wanted_event_type for r in requests], config.context_spec, config.context_table_rows)
    empty_Q = torch.tensor([len(r.history) == 0 for r in requests])
    request_Q7, slots_QS, weights_QS = (torch.from_numpy(x) for x in (request_time_features(now, last), *wanted))
    read = on(hidden_QD.device, (empty_Q, request_Q7, slots_QS, weights_QS))
    query_input = contextualizer.query_input(hidden_QD, *read, past, vectors)
    repeat_M = contextualizer.repeat_scores(query_input, past, vectors)
    is_search = np.array([len(r.history) > 0 and r.history.item_rows_L[-1] < 0 for r in requests])
    searched_QD = read_QD * torch.from_numpy(search_weight(is_search, now, last)).to(read_QD.device)[:, None]
    return Queries(contextualizer.queries(query_input, searched_QD), past.request_M, past.rows_M, repeat_M)
