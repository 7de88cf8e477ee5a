"""The layers of the contextualizer over many new events at once, on a CPU: what a cold history costs.

Products are numpy's, whose OpenBLAS has kernels for the vector units of every kind of processor; torch's MKL leaves out those of
AMD's. The weights of the norms are multiplied into the products after them, and the two numbers that a rotary position turns lie
side by side, as one complex number. Exponentials are torch's. Keys and values are stored as the memory has them.

T: events read at once; C: events of one history so far; H: heads; G: key/value heads, each of R = H / G heads; E: head width;
P: half of it; D: width; F: width of the feed-forward layer; Q: histories
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from service.states.memory import ArrayMemory
from twotower.data.features import Floats
from twotower.kernels.rms_norm import EPSILON
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Block, Contextualizer

MOST_EVENTS = 512  # of one pass through the layers: what lies between two products then stays in the processor's cache
_BLOCK = 64  # queries whose scores are computed at once; keys after the last of them are left out

Complex = npt.NDArray[np.complex64]
Product = Callable[[Floats], Floats]  # of rows with weights


@dataclass(frozen=True, slots=True)
class _Layer:
    """The products of one layer, of rows of unit norm but for `out`."""

    query: Product  # [T, H E], scaled for the softmax
    key_value: Product  # [T, 2 G E]
    out: Product
    feed_forward: Product

    @staticmethod
    def of(block: Block, dtype: torch.dtype) -> "_Layer":
        width, of_query = block.head_width, block.num_heads * block.head_width
        norm_D, ffn_norm_D = _array(block.attention_norm.weight), _array(block.ffn_norm.weight)
        root = np.float32(len(norm_D) ** 0.5)  # rows of unit norm, times this, have unit root-mean-square
        of_heads = [of_query, of_query + block.num_kv_heads * width]
        query, key, value = np.split(_array(block.qkv.weight) * (norm_D * root), of_heads)
        gate, up = np.split(_array(block.gate_up.weight) * (ffn_norm_D * root), 2)
        return _Layer(
            _product(_paired(query * np.float32(width**-0.5), width), dtype),
            _product(np.concatenate([_paired(key, width), value]), dtype),
            _product(_array(block.attention_out.weight), dtype),
            _feed_forward(gate, up, _array(block.down.weight), dtype),
        )


class PackedLayers:
    """Reads the new events of several histories with the same products.

    With bfloat16, products multiply rounded numbers and sum them in float32. Everything else is float32 anyway.
    """

    def __init__(self, contextualizer: Contextualizer, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self._heads, self._groups = config.num_heads, config.num_kv_heads
        self._layers = [_Layer.of(block, dtype) for block in contextualizer.blocks if isinstance(block, Block)]
        self._norm_D = _array(contextualizer.norm.weight) * np.float32(config.width**0.5)
        turns_LP = np.empty(contextualizer.cos_LE.shape, np.complex64)
        turns_LP.real, turns_LP.imag = _array(contextualizer.cos_LE), _array(contextualizer.sin_LE)
        self._turns_LHP = np.tile(turns_LP[:, None], (1, self._heads, 1))

    def read(self, memories: Sequence[ArrayMemory], counts: Sequence[int], x_TD: Floats) -> Floats:
        """Hidden state [Q, D] after the last event of each history. Each memory must have room, and gets keys and values."""
        parts = [self._read(memories[histories], counts[histories], x_TD[events]) for histories, events in _passes(counts)]
        return np.concatenate(parts)

    def _read(self, memories: Sequence[ArrayMemory], counts: Sequence[int], x_TD: Floats) -> Floats:
        """One pass through the layers. Of the last layer, only what the last events need is computed."""
        stops = np.cumsum(counts)
        turns_THP = np.concatenate([self._turns_LHP[m.length : m.length + c] for m, c in zip(memories, counts, strict=True)])
        for number, layer in enumerate(self._layers):
            normed_TD = _unit(x_TD)
            self._store(memories, counts, number, layer.key_value(normed_TD), turns_THP[:, : self._groups])
            asked_counts = counts
            if number == len(self._layers) - 1:
                last_Q, asked_counts = stops - 1, [1] * len(counts)
                x_TD, normed_TD, turns_THP = x_TD[last_Q], normed_TD[last_Q], turns_THP[last_Q]
            query_THP = _turned(layer.query(normed_TD), turns_THP)
            x_TD = x_TD + layer.out(self._attended(memories, counts, number, query_THP, asked_counts))
            x_TD += layer.feed_forward(_unit(x_TD))
        return _unit(x_TD) * self._norm_D

    def _store(
        self, memories: Sequence[ArrayMemory], counts: Sequence[int], layer: int, key_value_TX: Floats, turns_TGP: Complex
    ) -> None:
        """Put keys and values of new events into the memories."""
        half = key_value_TX.shape[1] // 2
        key_TGP = _turned(key_value_TX[:, :half], turns_TGP)
        value_TGE = key_value_TX[:, half:].reshape(len(key_TGP), self._groups, -1)
        for memory, count, new in zip(memories, counts, _spans(counts), strict=True):
            stored = slice(memory.length, memory.length + count)
            _unpair(key_TGP[new].transpose(1, 0, 2), memory.keys_LGCE[layer, :, stored])
            memory.values_LGCE[layer, :, stored] = value_TGE[new].transpose(1, 0, 2)

    def _attended(
        self, memories: Sequence[ArrayMemory], counts: Sequence[int], layer: int, query_THP: Complex, asked: Sequence[int]
    ) -> Floats:
        """What the heads have gathered for the last `asked` events of each history, [T, H E]."""
        num, _, half = query_THP.shape
        query_TGRP = query_THP.reshape(num, self._groups, -1, half)
        mixed_TGRE = np.empty((*query_TGRP.shape[:3], 2 * half), np.float32)
        for memory, count, span in zip(memories, counts, _spans(asked), strict=True):
            keys, values = memory.keys_LGCE[layer], memory.values_LGCE[layer]
            stop = memory.length + count
            attend(query_TGRP[span], keys[:, :stop], values[:, :stop], mixed_TGRE[span])
        return mixed_TGRE.reshape(num, -1)


def attend(query_TGRP: Complex, keys_GCE: Floats, values_GCE: Floats, mixed_TGRE: Floats) -> None:
    """Causal attention of the last T of C events, into `mixed_TGRE`. Queries are turned, scaled, and paired."""
    num, groups, heads, half = query_TGRP.shape
    kept, keys_GEC = keys_GCE.shape[1] - num, np.ascontiguousarray(keys_GCE.transpose(0, 2, 1))
    query_GRTE = np.empty((groups, heads, num, 2 * half), np.float32)
    _unpair(query_TGRP.transpose(1, 2, 0, 3), query_GRTE)
    for start in range(0, num, _BLOCK):
        rows = min(_BLOCK, num - start)
        stop = kept + start + rows
        score_GXC = query_GRTE[:, :, start : start + rows].reshape(groups, heads * rows, -1) @ keys_GEC[:, :, :stop]
        score_GXC.reshape(groups, heads, rows, stop)[..., stop - rows :] += _HIDDEN[:rows, :rows]
        weight_GXC = torch.from_numpy(score_GXC)
        torch.softmax(weight_GXC, -1, out=weight_GXC)
        mixed_GRTE = (score_GXC @ values_GCE[:, :stop]).reshape(groups, heads, rows, -1)
        mixed_TGRE[start : start + rows] = mixed_GRTE.transpose(2, 0, 1, 3)


_HIDDEN = np.triu(np.full((_BLOCK, _BLOCK), -np.inf, np.float32), 1)  # later events, added to scores


def _passes(counts: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Histories that are read at once, and their events."""
    first = begin = end = 0
    for place, count in enumerate(counts):
        if end > begin and end + count - begin > MOST_EVENTS:
            yield slice(first, place), slice(begin, end)
            first, begin = place, end
        end += count
    yield slice(first, len(counts)), slice(begin, end)


def _spans(counts: Sequence[int]) -> Iterator[slice]:
    """Where the events of each history lie."""
    return (slice(stop - count, stop) for stop, count in zip(accumulate(counts), counts, strict=True))


def _unit(x_TD: Floats) -> Floats:
    """Rows scaled to unit norm."""
    rows_TD = torch.from_numpy(x_TD)
    scale_T1 = torch.linalg.vector_norm(rows_TD, dim=1, keepdim=True)
    scale_T1.mul_(scale_T1).add_(x_TD.shape[1] * EPSILON).rsqrt_()
    unit_TD: Floats = (rows_TD * scale_T1).numpy()
    return unit_TD


def _product(weights_XD: Floats, dtype: torch.dtype) -> Product:
    """Products of rows with these weights, which are copied as the products read them."""
    if dtype == torch.float32:
        weights_DX = np.ascontiguousarray(weights_XD.T)
        return lambda rows_TD: rows_TD @ weights_DX
    rounded_XD = torch.from_numpy(weights_XD).to(dtype)
    return lambda rows_TD: _single(functional.linear(torch.from_numpy(rows_TD).to(dtype), rounded_XD))


def _feed_forward(gate_FD: Floats, up_FD: Floats, down_DF: Floats, dtype: torch.dtype) -> Product:
    """The feed-forward layer: SwiGLU (Shazeer 2020, eq. 6) and the product after it."""
    if dtype == torch.float32:
        gate, up, down = (_product(weights, dtype) for weights in (gate_FD, up_FD, down_DF))
        return lambda rows_TD: down(_gated(torch.from_numpy(gate(rows_TD)), torch.from_numpy(up(rows_TD))).numpy())
    gate_in, up_in, down_in = (torch.from_numpy(weights).to(dtype) for weights in (gate_FD, up_FD, down_DF))

    def in_half(rows_TD: Floats) -> Floats:
        rounded_TD = torch.from_numpy(rows_TD).to(dtype)
        gated_TF = _gated(functional.linear(rounded_TD, gate_in), functional.linear(rounded_TD, up_in))
        return _single(functional.linear(gated_TF, down_in))

    return in_half


def _gated(gate_TF: torch.Tensor, up_TF: torch.Tensor) -> torch.Tensor:
    return functional.silu(gate_TF, inplace=True).mul_(up_TF)


def _single(rows: torch.Tensor) -> Floats:
    single: Floats = rows.float().numpy()
    return single


def _turned(x_TX: Floats, turns_THP: Complex) -> Complex:
    """Heads [T, H, P] rotated by the angles of their positions (Su et al. 2021, eq. 34)."""
    turned_TX: Complex = x_TX.view(np.complex64) * turns_THP.reshape(len(x_TX), -1)
    return turned_TX.reshape(turns_THP.shape)


def _paired(weights_XD: Floats, width: int) -> Floats:
    """Rows of heads, reordered: each number of the first half of a head is followed by the one that is turned with it."""
    return weights_XD.reshape(-1, 2, width // 2, weights_XD.shape[1]).transpose(0, 2, 1, 3).reshape(weights_XD.shape)


def _unpair(heads: Complex, into: Floats) -> None:
    """Write heads [..., P] of complex numbers as two halves, [..., 2 P]."""
    half = heads.shape[-1]
    into[..., :half], into[..., half:] = heads.real, heads.imag


def _array(weights: torch.Tensor) -> Floats:
    result: npt.NDArray[np.float32] = weights.detach().numpy()
    return result
