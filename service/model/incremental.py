"""The contextualizer run incrementally: keys and values of the events read are kept, so that one new event costs one token.

This gives exact results, because positions count from the window's anchor and the input of an event does not depend on the time
of the request. Tests check that it computes the same as `Contextualizer` and as `queries_from_hidden` in
`twotower.model.scoring`. Products of few rows use numpy, because there torch spends most of its time on the call itself. The
last layer is computed for the last token only.

T: events read at once, of all histories; C: events a memory has room for; L: layers; H: heads; G: key/value heads, each of H/G
heads; E: head width; D: width; Q: histories; M: past items; A: width of a head of the attention over past items; Z: hidden width
of the repeat score; X: query input
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from service.model.packed_layers import PackedLayers
from service.states.memory import ArrayMemory, PastParts
from twotower.data.features import Floats
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Block, Contextualizer

_EPSILON = np.finfo(np.float32).eps  # torch's own for RMSNorm


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer, transposed for products with rows. The weights of the norms are already multiplied in."""

    qkv: Floats
    out: Floats
    gate_up: Floats
    down: Floats

    @staticmethod
    def of(block: Block) -> "_Layer":
        qkv, gate_up = (
            _array(linear) * _array(norm) for linear, norm in ((block.qkv, block.attention_norm), (block.gate_up, block.ffn_norm))
        )
        return _Layer(qkv.T, _array(block.attention_out).T, gate_up.T, _array(block.down).T)


class Incremental:
    """Reads new events into memories and computes queries. One per release; it only changes the memories that it is given."""

    def __init__(self, contextualizer: Contextualizer, config: ModelConfig) -> None:
        self._model, self._config = contextualizer, config
        self._heads, self._kv_heads = config.num_heads, config.num_kv_heads
        self._layers = [_Layer.of(block) for block in contextualizer.blocks if isinstance(block, Block)]
        self._packed = PackedLayers(contextualizer, config)
        self._cos_LE, self._sin_LE = contextualizer.cos_LE.numpy(), contextualizer.sin_LE.numpy()
        self._norm_D, self._empty_D = _array(contextualizer.norm), _detached(contextualizer.empty_history)
        self._attention = contextualizer.past_attention
        if (attention := self._attention) is not None:
            self._past_query, self._past_bias, self._past_out = (
                _linear(attention.query),
                _linear(attention.bias),
                _array(attention.out),
            )
            self._past_scale = np.float32(1 / math.sqrt(attention.key_width))
        self._query_scale_D = _detached(contextualizer.query_scale)
        self._query_request = None if contextualizer.query_request is None else _array(contextualizer.query_request)
        self._popularity = _linear(contextualizer.popularity_hidden), _linear(contextualizer.popularity_out)
        self._repeat_in, self._repeat_mid, self._repeat_out = (_linear(contextualizer.repeat_mlp[i]) for i in (0, 2, 4))
        # Keys, values and a part of the repeat score are one product with the item vector scaled to unit root-mean-square.
        (norm, item), (weight_ZX, bias_Z) = contextualizer.repeat_item, self._repeat_in
        item_width = config.repeat_item_width
        kept_ZD = weight_ZX[:, -item_width:] @ (_array(item) * _array(norm))
        scaled = [_array(linear) * _array(attention.norm) for linear in (attention.key, attention.value)] if attention else []
        self._past_all = np.concatenate([*scaled, kept_ZD]).T
        self._past_splits = np.cumsum([len(weights) for weights in scaled], dtype=np.int64)
        popularity = weight_ZX[:, -item_width - config.num_popularity : -item_width]
        self._repeat_popularity = popularity, bias_Z + weight_ZX[:, -item_width:] @ _detached(item.bias)
        self._repeat_query, self._repeat_key = _linear(contextualizer.repeat_query), _linear(contextualizer.repeat_key)
        (context_in, bias_D), width = _linear(contextualizer.context_in), contextualizer.event_time_width
        self._time, self._numbers = context_in[:, :width].T, (context_in[:, width:], bias_D)

    @torch.inference_mode()
    def embed_slots(self, slots_NS: npt.NDArray[np.int32], weights_NS: Floats) -> Floats:
        """The part [N, D] of context vectors that comes from the table of event types and categories."""
        return self._model.pool_slots(torch.from_numpy(slots_NS), torch.from_numpy(weights_NS)).numpy()

    def embed_numbers(self, dense_TF: Floats) -> Floats:
        """The part [T, D] of context vectors that comes from numeric features. Without any, it is the bias."""
        return _apply(self._numbers, dense_TF)

    def embed_events(self, items_TD: Floats, times_T6: Floats, contexts_TD: Floats) -> Floats:
        """The input [T, D] of the first layer: the sum of item, context and time vectors."""
        return items_TD + contexts_TD + times_T6[:, : len(self._time)] @ self._time

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
        cos_Q1E, sin_Q1E = self._cos_LE[positions_Q][:, None], self._sin_LE[positions_Q][:, None]
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
        return _rms(x_QD) * self._norm_D

    def past_parts(self, vectors_MV: Floats) -> PastParts:
        """The `PastParts` of items, from their vectors with popularity."""
        width = self._config.width
        *attended, repeat_MZ = np.split(_rms(vectors_MV[:, :width]) @ self._past_all, self._past_splits, 1)
        none_HM0 = np.zeros((0, len(vectors_MV), 0), np.float32)
        key_HMA, value_HMD = map(self._heads_first, attended) if attended else (none_HM0, none_HM0)
        popularity, (weight_ZP, bias_Z) = np.float32(1.5) + vectors_MV[:, width:] / np.float32(5), self._repeat_popularity
        return PastParts(
            vectors_MV,
            key_HMA,
            value_HMD,
            (repeat_MZ + popularity @ weight_ZP.T + bias_Z).astype(np.float32, copy=False),
        )

    def _heads_first(self, x_MA: Floats) -> Floats:
        """Keys or values of all heads [M, H A] as [H, M, A]."""
        heads = self._config.past_heads
        return np.ascontiguousarray(x_MA.reshape(len(x_MA), heads, x_MA.shape[1] // heads).transpose(1, 0, 2))

    def no_past_parts(self) -> PastParts:
        """The `PastParts` of a user without past items."""
        return self.past_parts(np.zeros((0, self._config.width + self._config.num_popularity), np.float32))

    def query(self, hidden_D: Floats | None, wanted_D: Floats, beside: Floats, features_M6: Floats, past: PastParts) -> Floats:
        """Query input [X] of one request, from the hidden state, the attention over past items, and the features in `beside`.

        `hidden_D` is None for an empty history, which has a learned hidden state.
        """
        hidden_D = (self._empty_D if hidden_D is None else hidden_D) + wanted_D
        if self._attention is None or not len(features_M6):
            return np.concatenate([hidden_D, beside])
        query_H1A = _apply(self._past_query, np.concatenate([hidden_D, beside])).reshape(len(past.key_HMA), 1, -1)
        logit_HM = (query_H1A * self._past_scale @ past.key_HMA.transpose(0, 2, 1))[:, 0] + _apply(self._past_bias, features_M6).T
        weight_HM = np.exp(logit_HM - np.maximum.reduce(logit_HM, 1, keepdims=True))
        weight_HM /= np.add.reduce(weight_HM, 1, keepdims=True)
        taste_D = self._past_out @ (weight_HM[:, None] @ past.value_HMD).reshape(-1)
        return np.concatenate([hidden_D + taste_D, beside])

    def vector(self, query_X: Floats) -> Floats:
        """Query vector [V] from the query input."""
        first, second = self._popularity
        hidden = _apply(first, query_X)
        weights_P = _apply(second, hidden / (1 + np.exp(-hidden)))
        item_D, from_request = np.split(query_X, [len(self._query_scale_D)])
        if self._query_request is not None:
            item_D = item_D + self._query_request @ from_request
        return np.concatenate([item_D * self._query_scale_D, weights_P])

    def repeat_scores(self, query_X: Floats, features_M6: Floats, activity_6: Floats, past: PastParts) -> Floats:
        """Repeat scores [M]: what is added to the score of each past item."""
        (weight_ZX, _), (num_features, num_activity) = self._repeat_in, (features_M6.shape[1], len(activity_6))
        hidden_MZ = past.repeat_MZ + features_M6 @ weight_ZX[:, :num_features].T
        hidden_MZ += weight_ZX[:, num_features : num_features + num_activity] @ activity_6
        scores_M = _apply(self._repeat_out, np.maximum(_apply(self._repeat_mid, np.maximum(hidden_MZ, 0)), 0))[:, 0]
        rank_R, (weight_R6, bias_R) = _apply(self._repeat_query, query_X), self._repeat_key
        return scores_M + features_M6 @ (rank_R @ weight_R6) + rank_R @ bias_R


def _rms(x_QD: Floats) -> Floats:
    """Rows divided by their root-mean-square."""
    scale_Q1: Floats = np.sqrt(np.add.reduce(x_QD * x_QD, 1, keepdims=True) / np.float32(x_QD.shape[1]) + _EPSILON)
    return x_QD / scale_Q1


def _array(module: nn.Module) -> Floats:
    """The weights of a module as an array that shares their memory."""
    return _detached(module.weight)


def _detached(weights: Any) -> Floats:
    result: npt.NDArray[np.float32] = weights.detach().numpy()
    return result


def _linear(module: nn.Module) -> tuple[Floats, Floats]:
    return _array(module), _detached(module.bias)


def _apply(weights: tuple[Floats, Floats], x: Floats) -> Floats:
    return x @ weights[0].T + weights[1]
