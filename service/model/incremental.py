"""The model as it serves one user: what it read of a history is kept, so that one more event costs one token.

Exact, because positions count from the window's anchor and nothing that an event's input is made of depends on the moment of
the request. The arithmetic is that of `Contextualizer` and of `queries_from_hidden` in `twotower.model.scoring`, which tests
compare this with. Where a matrix has few rows it is numpy's: there torch spends its time on calls. Of the last layer only the
last token is computed.

T: events read at once, of all histories; C: events a memory has room for; L: layers; H: heads; G: key/value heads, each of H/G
heads; E: head width; D: width; Q: histories; M: past items; A: width of a head of the attention over past items; Z: hidden width
of the repeat score; X: query input
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twotower.data.features import Floats
from twotower.data.window import PAGE
from twotower.kernels.packed_attention import causal_attention
from twotower.kernels.rms_norm import add_rms_norm, rms_norm
from twotower.kernels.rotary import turn
from twotower.kernels.swiglu import swiglu
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Block, Contextualizer

_EPSILON = np.finfo(np.float32).eps  # torch's own for RMSNorm


class Memory:
    """Keys and values of the events read of one history, and the hidden state after the last; grown a page at a time."""

    __slots__ = ("keys_LGCE", "last_D", "length", "values_LGCE")

    def __init__(self, config: ModelConfig) -> None:
        shape = (config.num_layers, config.num_kv_heads, 0, config.width // config.num_heads)
        self.keys_LGCE, self.values_LGCE = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length = 0
        self.last_D: Floats | None = None  # None: nothing was read, or it was cut

    @property
    def num_bytes(self) -> int:
        """Of keys and values."""
        return self.keys_LGCE.nbytes + self.values_LGCE.nbytes

    def cut(self, length: int) -> None:
        """Forget all but the first events."""
        if length < self.length:
            self.length, self.last_D = length, None

    def make_room(self, length: int) -> None:
        """Hold at least so many events."""
        capacity = self.keys_LGCE.shape[2]
        if length > capacity:
            more = [(0, 0), (0, 0), (0, -(-length // PAGE) * PAGE - capacity), (0, 0)]
            self.keys_LGCE, self.values_LGCE = np.pad(self.keys_LGCE, more), np.pad(self.values_LGCE, more)


class PastParts(NamedTuple):
    """What the model makes of past items whatever the request: keys and values of each head, and a part of the repeat score."""

    vector_MV: Floats
    key_HMA: Floats
    value_HMD: Floats
    repeat_MZ: Floats


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights as they are multiplied with rows, those of the norms before them multiplied in."""

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


class Reader:
    """Reads histories on, and makes queries of them. One per release; it changes nothing but the memories it is given."""

    def __init__(self, contextualizer: Contextualizer, config: ModelConfig) -> None:
        self._model, self._config = contextualizer, config
        self._heads, self._kv_heads = config.num_heads, config.num_kv_heads
        self._blocks = [block for block in contextualizer.blocks if isinstance(block, Block)]
        self._layers = [_Layer.of(block) for block in self._blocks]
        self._cos_LE, self._sin_LE = contextualizer.cos_LE.numpy(), contextualizer.sin_LE.numpy()
        self._norm_D, self._empty_D = _array(contextualizer.norm), _detached(contextualizer.empty_history)
        attention = contextualizer.own_attention
        self._past_query, self._past_bias, self._past_out = (
            _linear(attention.query),
            _linear(attention.bias),
            _array(attention.out),
        )
        self._past_scale = np.float32(1 / math.sqrt(attention.key_width))
        self._hidden, self._out = _linear(contextualizer.query_hidden), _linear(contextualizer.query_out)
        self._repeat_in, self._repeat_mid, self._repeat_out = (_linear(contextualizer.repeat_mlp[i]) for i in (0, 2, 4))
        # Keys, values and a part of the repeat score of an item, as one product with its vector scaled to unit size.
        (norm, item), (weight_ZX, bias_Z) = contextualizer.repeat_item, self._repeat_in
        item_width = config.repeat_item_width
        kept_ZD = weight_ZX[:, -item_width:] @ (_array(item) * _array(norm))
        scaled = [_array(linear) * _array(attention.norm) for linear in (attention.key, attention.value)]
        self._past_all, self._num_past_heads = np.concatenate([*scaled, kept_ZD]).T, attention.num_heads
        self._past_splits = np.cumsum([len(weights) for weights in scaled])
        popularity = weight_ZX[:, -item_width - config.num_popularity : -item_width]
        self._repeat_popularity = popularity, bias_Z + weight_ZX[:, -item_width:] @ _detached(item.bias)
        self._repeat_query, self._repeat_key = _linear(contextualizer.repeat_query), _linear(contextualizer.repeat_key)
        (context_in, bias_D), width = _linear(contextualizer.context_in), contextualizer.event_time_width
        self._time, self._numbers = context_in[:, :width].T, (context_in[:, width:], bias_D)

    @torch.inference_mode()
    def embed_slots(self, slots_NS: npt.NDArray[np.int32], weights_NS: Floats) -> Floats:
        """What is looked up in the table of event types and features, [N, D]."""
        return self._model.pool_slots(torch.from_numpy(slots_NS), torch.from_numpy(weights_NS)).numpy()

    def embed_numbers(self, dense_TF: Floats) -> Floats:
        """What the other features add to events, [T, D]; also where there are none."""
        return _apply(self._numbers, dense_TF)

    def embed_events(self, items_TD: Floats, times_T6: Floats, contexts_TD: Floats) -> Floats:
        """What the first layer reads, [T, D]."""
        return items_TD + contexts_TD + times_T6[:, : len(self._time)] @ self._time

    @torch.inference_mode()
    def read(self, memories: Sequence[Memory], counts: Sequence[int], events_TD: Floats) -> None:
        """Read on in several histories, `counts` events in each, at least one; no history twice."""
        for memory, count in zip(memories, counts, strict=True):
            memory.make_room(memory.length + count)
        if max(counts) == 1:
            last_QD = self._read_one_each(memories, events_TD)
        else:
            last_QD = self._read_packed(memories, counts, torch.from_numpy(events_TD))
        for memory, count, last_D in zip(memories, counts, last_QD, strict=True):
            memory.length += count
            memory.last_D = last_D

    def _read_packed(self, memories: Sequence[Memory], counts: Sequence[int], x_TD: Tensor) -> Floats:
        """The hidden state after the last event of each history, [Q, D]: one product for all events, attention one by one."""
        stops = np.cumsum(counts)
        spans = [slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)]
        positions_T = np.concatenate([np.arange(m.length, m.length + c) for m, c in zip(memories, counts, strict=True)])
        cos_T1E, sin_T1E = (torch.from_numpy(table[positions_T])[:, None] for table in (self._cos_LE, self._sin_LE))
        last_Q = torch.from_numpy(stops - 1)
        for layer, block in enumerate(self._blocks):
            is_last = layer == len(self._blocks) - 1
            heads = block.qkv(rms_norm(x_TD, block.attention_norm.weight)).unflatten(1, (-1, block.head_width))
            turned = turn(heads[:, : self._heads + self._kv_heads], cos_T1E, sin_T1E)
            q_THE, k_TGE = turned[:, : self._heads], turned[:, self._heads :]
            v_TGE = heads[:, self._heads + self._kv_heads :]
            mixed = []
            for memory, span in zip(memories, spans, strict=True):
                keys, values = _stored(memory, layer, k_TGE[span].numpy(), v_TGE[span].numpy())
                q_HTE = (q_THE[span][-1:] if is_last else q_THE[span]).transpose(0, 1)
                mixed_HTE = causal_attention(q_HTE[None], torch.from_numpy(keys)[None], torch.from_numpy(values)[None])[0]
                mixed.append(mixed_HTE.transpose(0, 1).flatten(1))
            if is_last:
                x_TD = x_TD[last_Q]
            x_TD, normed_TD = add_rms_norm(x_TD, block.attention_out(torch.cat(mixed)), block.ffn_norm.weight)
            x_TD = x_TD + block.down(swiglu(block.gate_up(normed_TD)))
        return rms_norm(x_TD, self._model.norm.weight).numpy()

    def _read_one_each(self, memories: Sequence[Memory], x_QD: Floats) -> Floats:
        """The same for one event of each history."""
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
        """What is kept of past items, of their vectors with popularity."""
        shape, width = (len(vectors_MV), self._num_past_heads), self._config.width
        key_MHA, value_MHD, repeat_MZ = np.split(_rms(vectors_MV[:, :width]) @ self._past_all, self._past_splits, 1)
        popularity, (weight_ZP, bias_Z) = np.float32(1.5) + vectors_MV[:, width:] / np.float32(5), self._repeat_popularity
        return PastParts(
            vectors_MV,
            np.ascontiguousarray(key_MHA.reshape((*shape, key_MHA.shape[1] // shape[1])).transpose(1, 0, 2)),
            np.ascontiguousarray(value_MHD.reshape((*shape, value_MHD.shape[1] // shape[1])).transpose(1, 0, 2)),
            (repeat_MZ + popularity @ weight_ZP.T + bias_Z).astype(np.float32, copy=False),
        )

    def no_past_parts(self) -> PastParts:
        """Those of a user without any."""
        return self.past_parts(np.zeros((0, self._config.width + self._config.num_popularity), np.float32))

    def query(self, hidden_D: Floats | None, wanted_D: Floats, beside: Floats, features_M6: Floats, past: PastParts) -> Floats:
        """Query input [X] of one request: the hidden state, or none of an empty history, and the taste that past items tell."""
        hidden_D = (self._empty_D if hidden_D is None else hidden_D) + wanted_D
        if not len(features_M6):
            return np.concatenate([hidden_D, beside])
        query_H1A = _apply(self._past_query, np.concatenate([hidden_D, beside])).reshape(len(past.key_HMA), 1, -1)
        logit_HM = (query_H1A * self._past_scale @ past.key_HMA.transpose(0, 2, 1))[:, 0] + _apply(self._past_bias, features_M6).T
        weight_HM = np.exp(logit_HM - np.maximum.reduce(logit_HM, 1, keepdims=True))
        weight_HM /= np.add.reduce(weight_HM, 1, keepdims=True)
        taste_D = self._past_out @ (weight_HM[:, None] @ past.value_HMD).reshape(-1)
        return np.concatenate([hidden_D + taste_D, beside])

    def vector(self, query_X: Floats) -> Floats:
        """Query vector [V]."""
        hidden = _apply(self._hidden, query_X)
        return _apply(self._out, hidden / (1 + np.exp(-hidden)))

    def repeat_scores(self, query_X: Floats, features_M6: Floats, activity_6: Floats, past: PastParts) -> Floats:
        """What is added to the score of each past item, [M]."""
        (weight_ZX, _), (num_features, num_activity) = self._repeat_in, (features_M6.shape[1], len(activity_6))
        hidden_MZ = past.repeat_MZ + features_M6 @ weight_ZX[:, :num_features].T
        hidden_MZ += weight_ZX[:, num_features : num_features + num_activity] @ activity_6
        scores_M = _apply(self._repeat_out, np.maximum(_apply(self._repeat_mid, np.maximum(hidden_MZ, 0)), 0))[:, 0]
        rank_R, (weight_R6, bias_R) = _apply(self._repeat_query, query_X), self._repeat_key
        return scores_M + features_M6 @ (rank_R @ weight_R6) + rank_R @ bias_R


def _stored(memory: Memory, layer: int, k_TGE: Floats, v_TGE: Floats) -> tuple[Floats, Floats]:
    """Keys and values [G, C, E] of a layer with those of new events."""
    start, stop = memory.length, memory.length + len(k_TGE)
    memory.keys_LGCE[layer, :, start:stop] = k_TGE.transpose(1, 0, 2)
    memory.values_LGCE[layer, :, start:stop] = v_TGE.transpose(1, 0, 2)
    return memory.keys_LGCE[layer, :, :stop], memory.values_LGCE[layer, :, :stop]


def _rms(x_QD: Floats) -> Floats:
    """Rows scaled to unit root-mean-square."""
    scale_Q1: Floats = np.sqrt(np.add.reduce(x_QD * x_QD, 1, keepdims=True) / np.float32(x_QD.shape[1]) + _EPSILON)
    return x_QD / scale_Q1


def _array(module: nn.Module) -> Floats:
    """A module's weights, not copied."""
    return _detached(module.weight)


def _detached(weights: Any) -> Floats:
    result: npt.NDArray[np.float32] = weights.detach().numpy()
    return result


def _linear(module: nn.Module) -> tuple[Floats, Floats]:
    return _array(module), _detached(module.bias)


def _apply(weights: tuple[Floats, Floats], x: Floats) -> Floats:
    return x @ weights[0].T + weights[1]
