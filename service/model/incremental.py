"""The contextualizer run incrementally: keys and values of the events read are kept, so that one new event costs one token.

This gives exact results, because positions count from the window's anchor and the input of an event does not depend on the time
of the request. Tests check that it computes the same as `Contextualizer` and as `queries_from_hidden` in
`twotower.model.scoring`. Products of few rows use numpy, because there torch spends most of its time on the call itself. The
last layer is computed for the last token only.

T: events read at once, of all histories; C: events a memory has room for; L: layers; H: heads; G: key/value heads, each of H/G
heads; E: head width; D: width; Q: histories; M: past items; S: columns of what is kept of a past item; A: width of a head of the
attention over past items; Z: hidden width of the repeat score; X: query input
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from service.compiled.weights import detached, weights_of
from service.model.packed_layers import PackedLayers
from service.states.memory import ArrayMemory
from twotower.data.features import Floats
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer

_EPSILON = np.finfo(np.float32).eps  # torch's own for RMSNorm


class _Layer(NamedTuple):
    """Weights of one layer, transposed for products with rows."""

    qkv: Floats
    out: Floats
    gate_up: Floats
    down: Floats


class Incremental:
    """Reads new events into memories and computes queries. One per release; it only changes the memories that it is given.

    `dtype` is that of the products over many events; those of few rows are in float32.
    """

    def __init__(self, contextualizer: Contextualizer, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        self._model, self._config = contextualizer, config
        self._heads, self._kv_heads = config.num_heads, config.num_kv_heads
        self.weights = weights_of(contextualizer, config)
        self._layers = [_Layer(*layer) for layer in zip(*map(_transposed, self.weights.layers[:4]), strict=True)]
        self._packed = PackedLayers(contextualizer, config, dtype)
        self._empty_D = detached(contextualizer.empty_history)

    @torch.inference_mode()
    def embed_slots(self, slots_NS: npt.NDArray[np.int32], weights_NS: Floats) -> Floats:
        """The part [N, D] of context vectors that comes from the table of event types and categories."""
        return self._model.pool_slots(torch.from_numpy(slots_NS), torch.from_numpy(weights_NS)).numpy()

    def embed_numbers(self, dense_TF: Floats) -> Floats:
        """The part [T, D] of context vectors that comes from numeric features. Without any, it is the bias."""
        encoded_TD: Floats = dense_TF @ self.weights.entry.numbers_BD + self.weights.entry.bias_D
        return encoded_TD

    def embed_events(self, items_TD: Floats, times_T6: Floats, contexts_TD: Floats) -> Floats:
        """The input [T, D] of the first layer: the sum of item, context and time vectors."""
        time_TD = self.weights.entry.time_TD
        return items_TD + contexts_TD + times_T6[:, : len(time_TD)] @ time_TD

    @torch.inference_mode()
    def read(self, memories: Sequence[ArrayMemory], counts: Sequence[int], events_TD: Floats) -> None:
        """Read new events into several memories: `counts` events into each, at least one. No memory may occur twice."""
        for memory, count in zip(memories, counts, strict=True):
            memory.make_room(memory.length + count)
        is_single = max(counts) == 1
        last_QD = self._read_one_each(memories, events_TD) if is_single else self._packed.read(memories, counts, events_TD)
        for memory, count, last_D in zip(memories, counts, last_QD, strict=True):
            memory.length += count
            memory.last_D = last_D

    def _read_one_each(self, memories: Sequence[ArrayMemory], x_QD: Floats) -> Floats:
        """As `PackedLayers.read`, for one event of each history."""
        num_heads, num_turned, half = self._heads, self._heads + self._kv_heads, x_QD.shape[1] // self._heads // 2
        positions_Q = [memory.length for memory in memories]
        cos_Q1E, sin_Q1E = (table[positions_Q][:, None] for table in self.weights.layers[5:])
        scale = np.float32((2 * half) ** -0.5)
        for layer, weights in enumerate(self._layers):
            heads = (_rms(x_QD) @ weights.qkv).reshape(len(x_QD), -1, 2 * half)
            first, second = heads[:, :num_turned, :half], heads[:, :num_turned, half:]
            turned = np.concatenate([first * cos_Q1E - second * sin_Q1E, first * sin_Q1E + second * cos_Q1E], 2)
            q_QGRE = (turned[:, :num_heads] * scale).reshape(len(x_QD), self._kv_heads, -1, 2 * half)
            mixed_QGRE = np.empty_like(q_QGRE)
            for i, memory in enumerate(memories):
                start, stop = memory.length, memory.length + 1
                keys, values = memory.keys_LGCE[layer], memory.values_LGCE[layer]
                keys[:, start], values[:, start] = turned[i, num_heads:], heads[i, num_turned:]
                weight_GRC = q_QGRE[i] @ keys[:, :stop].transpose(0, 2, 1)
                np.exp(weight_GRC - np.maximum.reduce(weight_GRC, 2, keepdims=True), out=weight_GRC)
                np.divide(weight_GRC @ values[:, :stop], np.add.reduce(weight_GRC, 2, keepdims=True), out=mixed_QGRE[i])
            x_QD = x_QD + mixed_QGRE.reshape(len(x_QD), -1) @ weights.out
            gate_up = _rms(x_QD) @ weights.gate_up
            gate, up = gate_up[:, : gate_up.shape[1] // 2], gate_up[:, gate_up.shape[1] // 2 :]
            x_QD = x_QD + (gate / (1 + np.exp(-gate)) * up) @ weights.down
        return _rms(x_QD) * self.weights.layers.norm_D

    def past_parts(self, vectors_MV: Floats) -> Floats:
        """What is kept of past items [M, S], from their vectors with popularity; see `Past` for the columns."""
        weights, width = self.weights.past, self._config.width
        num_kept = len(weights.scaled_SD)
        parts = np.empty((len(vectors_MV), vectors_MV.shape[1] + num_kept), np.float32)
        parts[:, :-num_kept] = vectors_MV
        np.matmul(_rms(vectors_MV[:, :width]), weights.scaled_SD.T, out=parts[:, -num_kept:])
        popularity_MP = np.float32(1.5) + vectors_MV[:, width:] / np.float32(5)
        parts[:, -len(weights.repeat_bias_Z) :] += popularity_MP @ weights.repeat_popularity_ZP.T + weights.repeat_bias_Z
        return parts

    def no_past_parts(self) -> Floats:
        """`past_parts` of a user without past items."""
        return self.past_parts(np.zeros((0, self._config.width + self._config.num_popularity), np.float32))

    def hidden(self, last_D: Floats | None, wanted_D: Floats) -> Floats:
        """The hidden state of a request. `last_D` is None for an empty history, which has a learned one."""
        return (self._empty_D if last_D is None else last_D) + wanted_D

    def query(self, hidden_D: Floats, beside: Floats, features_M6: Floats, parts_MS: Floats) -> Floats:
        """Query input [X] of one request, from the hidden state, the attention over past items, and the features in `beside`."""
        head, query_X = self.weights.head, np.concatenate([hidden_D, beside])
        if not len(head.past_bias_H6) or not len(features_M6):
            return query_X
        query_X1 = head.past_query_YX @ query_X + head.past_query_bias_Y
        start = self._config.width + self._config.num_popularity
        key_HMA, value_HME = (
            part.reshape(len(part), len(head.past_bias_H6), -1).transpose(1, 0, 2)
            for part in np.split(parts_MS[:, start : start + len(query_X1) + len(hidden_D)], [len(query_X1)], 1)
        )
        query_HA1 = query_X1.reshape(len(key_HMA), -1, 1) * np.float32(1 / math.sqrt(key_HMA.shape[2]))
        logit_HM = (key_HMA @ query_HA1)[:, :, 0] + head.past_bias_H6 @ features_M6.T + head.past_bias_bias_H[:, None]
        weight_HM = np.exp(logit_HM - np.maximum.reduce(logit_HM, 1, keepdims=True))
        weight_HM /= np.add.reduce(weight_HM, 1, keepdims=True)
        query_X[: len(hidden_D)] += head.past_out_DD @ (weight_HM[:, None] @ value_HME).reshape(-1)
        return query_X

    def vector(self, query_X: Floats) -> Floats:
        """Query vector [V] from the query input."""
        head = self.weights.head
        hidden = head.popularity_hidden_JX @ query_X + head.popularity_hidden_bias_J
        weights_P = head.popularity_out_PJ @ (hidden / (1 + np.exp(-hidden))) + head.popularity_out_bias_P
        item_D, request_R = np.split(query_X, [self._config.width])
        return np.concatenate([(item_D + head.query_request_DR @ request_R) * head.query_scale_D, weights_P])

    def repeat_scores(self, query_X: Floats, features_M6: Floats, activity_6: Floats, parts_MS: Floats) -> Floats:
        """Repeat scores [M]: what is added to the score of each past item."""
        head = self.weights.head
        hidden_MZ = parts_MS[:, -len(head.repeat_mid_ZZ) :] + features_M6 @ head.repeat_features_6Z
        hidden_MZ += activity_6 @ head.repeat_activity_6Z
        hidden_MZ = np.maximum(hidden_MZ, 0) @ head.repeat_mid_ZZ + head.repeat_mid_bias_Z
        scores_M: Floats = np.maximum(hidden_MZ, 0) @ head.repeat_out_1Z[0] + head.repeat_out_bias_1
        rank_K = head.repeat_query_KX @ query_X + head.repeat_query_bias_K
        scores_M += features_M6 @ (rank_K @ head.repeat_key_K6) + rank_K @ head.repeat_key_bias_K
        return scores_M


def _rms(x_QD: Floats) -> Floats:
    """Rows divided by their root-mean-square."""
    scale_Q1: Floats = np.sqrt(np.add.reduce(x_QD * x_QD, 1, keepdims=True) / np.float32(x_QD.shape[1]) + _EPSILON)
    return x_QD / scale_Q1


def _transposed(weights_LXY: Floats) -> list[Floats]:
    return [weights_XY.T for weights_XY in weights_LXY]
