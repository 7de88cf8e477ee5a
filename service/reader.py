"""The model as it serves one user: what it read of a history is kept, so that one more event costs one token.

Exact, because positions count from the window's anchor and nothing that an event's input is made of depends on the moment of
the request. The arithmetic is that of `Contextualizer` and of `twotower.scoring.finish`, which tests hold this to. Where a
matrix has few rows it is numpy's: there torch spends its time on calls. Of the last layer only the last token is computed.

T: events read at once, of all histories; C: events a memory has room for; L: layers; H: heads; G: key/value heads, each of H/G
heads; E: head width; D: width; Q: histories; M: own items; A: width of a head of the attention over own items; Z: hidden width
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
from torch.nn import functional

from twotower.features import EncodedRows, Floats
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Block, Contextualizer, rotate
from twotower.window import PAGE

_EPSILON = float(torch.finfo(torch.float32).eps)  # torch's own for RMSNorm


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


class OwnParts(NamedTuple):
    """What the model makes of own items whatever the request: keys and values of each head, and a part of the repeat score."""

    key_HMA: Floats
    value_HMD: Floats
    repeat_MZ: Floats


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm_D: Floats
    qkv: Floats
    out: Floats
    ffn_norm_D: Floats
    gate_up: Floats
    down: Floats


class Reader:
    """Reads histories on, and makes queries of them. One per release; it changes nothing but the memories it is given."""

    def __init__(self, contextualizer: Contextualizer, config: ModelConfig) -> None:
        self._model, self._config = contextualizer, config
        self._heads, self._kv_heads = config.num_heads, config.num_kv_heads
        self._blocks = [block for block in contextualizer.blocks if isinstance(block, Block)]
        self._layers = [
            _Layer(*(_array(w) for w in (b.attention_norm, b.qkv, b.attention_out, b.ffn_norm, b.gate_up, b.down)))
            for b in self._blocks
        ]
        self._cos_LE, self._sin_LE = contextualizer.cos_LE.numpy(), contextualizer.sin_LE.numpy()
        repeat = contextualizer.repeat_mlp
        self._repeat_in, self._repeat_mid, self._repeat_out = (_linear(repeat[i]) for i in (0, 2, 4))

    @torch.inference_mode()
    def embed_events(self, items_TD: Tensor, times_T6: Floats, context: EncodedRows) -> Tensor:
        """What the first layer reads, [T, D]."""
        model = self._model
        dense = np.concatenate([times_T6[:, : model.event_time_width], context.dense_NF], 1)
        slots = model.pool_slots(torch.from_numpy(context.slots_NS), torch.from_numpy(context.weights_NS))
        return items_TD + model.context_in(torch.from_numpy(dense)) + slots  # type: ignore[no-any-return]

    @torch.inference_mode()
    def read(self, memories: Sequence[Memory], counts: Sequence[int], events_TD: Tensor) -> None:
        """Read on in several histories, `counts` events in each, at least one; no history twice."""
        for memory, count in zip(memories, counts, strict=True):
            memory.make_room(memory.length + count)
        if max(counts) == 1:
            last_QD = self._read_one_each(memories, events_TD.numpy())
        else:
            last_QD = self._read_packed(memories, counts, events_TD)
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
            heads = block.qkv(block.attention_norm(x_TD)).unflatten(1, (-1, block.head_width))
            turned = rotate(heads[:, : self._heads + self._kv_heads], cos_T1E, sin_T1E)
            q_THE, k_TGE = turned.split([self._heads, self._kv_heads], 1)
            v_TGE = heads[:, self._heads + self._kv_heads :]
            mixed = []
            for memory, span in zip(memories, spans, strict=True):
                keys, values = _stored(memory, layer, k_TGE[span].numpy(), v_TGE[span].numpy())
                q_HTE = (q_THE[span][-1:] if is_last else q_THE[span]).transpose(0, 1)
                mixed.append(attention(q_HTE, torch.from_numpy(keys), torch.from_numpy(values)))
            if is_last:
                x_TD = x_TD[last_Q]
            x_TD = x_TD + block.attention_out(torch.cat(mixed))
            gate, up = block.gate_up(block.ffn_norm(x_TD)).chunk(2, -1)
            x_TD = x_TD + block.down(functional.silu(gate) * up)
        return self._model.norm(x_TD).numpy()  # type: ignore[no-any-return]

    def _read_one_each(self, memories: Sequence[Memory], x_QD: Floats) -> Floats:
        """The same for one event of each history."""
        num_heads, num_kv, width = self._heads, self._kv_heads, x_QD.shape[1] // self._heads
        positions_Q = [memory.length for memory in memories]
        cos_Q1E, sin_Q1E = self._cos_LE[positions_Q][:, None], self._sin_LE[positions_Q][:, None]
        for layer, weights in enumerate(self._layers):
            heads = (_rms(x_QD) * weights.attention_norm_D @ weights.qkv.T).reshape(len(x_QD), -1, width)
            first, second = heads[:, : num_heads + num_kv, : width // 2], heads[:, : num_heads + num_kv, width // 2 :]
            turned = np.concatenate([first * cos_Q1E - second * sin_Q1E, first * sin_Q1E + second * cos_Q1E], 2)
            q_QGRE = turned[:, :num_heads].reshape(len(x_QD), num_kv, -1, width) * np.float32(width**-0.5)
            mixed_QGRE = np.empty_like(q_QGRE)
            for i, memory in enumerate(memories):
                keys, values = _stored(memory, layer, turned[i : i + 1, num_heads:], heads[i : i + 1, num_heads + num_kv :])
                weight_GRC = q_QGRE[i] @ keys.transpose(0, 2, 1)
                weight_GRC = np.exp(weight_GRC - weight_GRC.max(2, keepdims=True))
                mixed_QGRE[i] = weight_GRC @ values / weight_GRC.sum(2, keepdims=True)
            x_QD = x_QD + mixed_QGRE.reshape(len(x_QD), -1) @ weights.out.T
            gate, up = np.split(_rms(x_QD) * weights.ffn_norm_D @ weights.gate_up.T, 2, 1)
            x_QD = x_QD + (gate / (1 + np.exp(-gate)) * up) @ weights.down.T
        return _rms(x_QD) * _array(self._model.norm)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def own_parts(self, vectors_MV: Tensor) -> OwnParts:
        """What is kept of own items, of their vectors with popularity."""
        items_MD, popularity_MP = vectors_MV[:, : self._config.width], vectors_MV[:, self._config.width :].numpy()
        attention = self._model.own_attention
        normed_MD = attention.norm(items_MD)
        key_HMA = attention.key(normed_MD).unflatten(1, (attention.num_heads, -1)).transpose(0, 1)
        value_HMD = attention.value(normed_MD).unflatten(1, (attention.num_heads, -1)).transpose(0, 1)
        weight_ZX, bias_Z = self._repeat_in
        static = np.concatenate([1.5 + popularity_MP / 5, self._model.repeat_item(items_MD).numpy()], 1)
        repeat_MZ = static @ weight_ZX[:, -static.shape[1] :].T + bias_Z
        return OwnParts(key_HMA.contiguous().numpy(), value_HMD.contiguous().numpy(), repeat_MZ)

    def query(self, hidden_D: Floats | None, wanted_D: Floats, beside: Floats, features_M6: Floats, own: OwnParts) -> Floats:
        """Query input [X] of one request: the hidden state, or none of an empty history, and the taste that own items tell."""
        model = self._model
        hidden_D = (_array_of(model.empty_history) if hidden_D is None else hidden_D) + wanted_D
        if not len(features_M6):
            return np.concatenate([hidden_D, beside])
        attention = model.own_attention
        query_H1A = _apply(_linear(attention.query), np.concatenate([hidden_D, beside])).reshape(attention.num_heads, 1, -1)
        logit_HM = (query_H1A * np.float32(1 / math.sqrt(attention.key_width)) @ own.key_HMA.transpose(0, 2, 1))[:, 0]
        logit_HM += _apply(_linear(attention.bias), features_M6).T
        weight_HM = np.exp(logit_HM - logit_HM.max(1, keepdims=True))
        weight_HM /= weight_HM.sum(1, keepdims=True)
        taste_D = _array(attention.out) @ (weight_HM[:, None] @ own.value_HMD).reshape(-1)
        return np.concatenate([hidden_D + taste_D, beside])

    def vector(self, query_X: Floats) -> Floats:
        """Query vector [V]."""
        hidden = _apply(_linear(self._model.query_hidden), query_X)
        return _apply(_linear(self._model.query_out), hidden / (1 + np.exp(-hidden)))

    def repeat_scores(self, query_X: Floats, features_M6: Floats, activity_6: Floats, own: OwnParts) -> Floats:
        """What is added to the score of each own item, [M]."""
        (weight_ZX, _), (num_features, num_activity) = self._repeat_in, (features_M6.shape[1], len(activity_6))
        hidden_MZ = own.repeat_MZ + features_M6 @ weight_ZX[:, :num_features].T
        hidden_MZ += weight_ZX[:, num_features : num_features + num_activity] @ activity_6
        scores_M = _apply(self._repeat_out, np.maximum(_apply(self._repeat_mid, np.maximum(hidden_MZ, 0)), 0))[:, 0]
        rank_R = _apply(_linear(self._model.repeat_query), query_X)
        weight_R6, bias_R = _linear(self._model.repeat_key)
        return scores_M + features_M6 @ (rank_R @ weight_R6) + rank_R @ bias_R  # type: ignore[no-any-return]


def attention(q_HTE: Tensor, keys_GCE: Tensor, values_GCE: Tensor) -> Tensor:
    """Causal attention [T, D] of the last T of C events."""
    num_new, num_all = q_HTE.shape[1], keys_GCE.shape[1]
    mask = None if num_new in (1, num_all) else torch.ones(num_new, num_all, dtype=torch.bool).tril(num_all - num_new)
    mixed = functional.scaled_dot_product_attention(
        q_HTE[None],
        keys_GCE[None],
        values_GCE[None],
        attn_mask=mask,
        is_causal=num_new == num_all and num_new > 1,
        enable_gqa=True,
    )
    return mixed[0].transpose(0, 1).flatten(1)


def _stored(memory: Memory, layer: int, k_TGE: Floats, v_TGE: Floats) -> tuple[Floats, Floats]:
    """Keys and values [G, C, E] of a layer with those of new events."""
    start, stop = memory.length, memory.length + len(k_TGE)
    memory.keys_LGCE[layer, :, start:stop] = k_TGE.transpose(1, 0, 2)
    memory.values_LGCE[layer, :, start:stop] = v_TGE.transpose(1, 0, 2)
    return memory.keys_LGCE[layer, :, :stop], memory.values_LGCE[layer, :, :stop]


def _rms(x_QD: Floats) -> Floats:
    """Rows scaled to unit root-mean-square."""
    return x_QD / np.sqrt(np.square(x_QD).mean(1, keepdims=True) + _EPSILON)  # type: ignore[no-any-return]


def _array(module: nn.Module) -> Floats:
    """A module's weights, not copied."""
    return _array_of(module.weight)


def _array_of(weights: Any) -> Floats:
    result: npt.NDArray[np.float32] = weights.detach().numpy()
    return result


def _linear(module: nn.Module) -> tuple[Floats, Floats]:
    return _array(module), _array_of(module.bias)


def _apply(weights: tuple[Floats, Floats], x: Floats) -> Floats:
    return x @ weights[0].T + weights[1]  # type: ignore[no-any-return]
