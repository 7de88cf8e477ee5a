"""The contextualizer's weights as arrays, in the form in which the model on a CPU reads them, with numpy and compiled.

Weights of norms are multiplied into those of the product behind them. Arrays are contiguous and can be written to, so that all
releases have the same types.

L: layers; D: width; W: width of queries, keys and values; F: hidden width of a layer, of which U is twice; C: events of a window;
E: half a head; H: heads of the attention over past items, which are Y wide together; X: query input; R: request features;
Z: hidden width of the repeat score; K: rank of the repeat interaction; J: hidden width of the popularity; P: popularity
dimensions; S: columns of what is kept of a past item beside its vector; T: time features of an event; B: encoded columns of
numeric features
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from twotower.data.features import Floats
from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Block, Contextualizer


class Entry(NamedTuple):
    """Of the input of the first layer. The edges of numeric feature n are those from `starts[n]` up to `starts[n + 1]`."""

    time_TD: Floats
    numbers_BD: Floats
    bias_D: Floats
    edges: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]


class Layers(NamedTuple):
    """Of all layers, and of the norm behind the last one."""

    qkv_LWD: Floats
    out_LDD: Floats
    gate_up_LUD: Floats
    down_LDF: Floats
    norm_D: Floats
    cos_CE: Floats
    sin_CE: Floats


class Past(NamedTuple):
    """Of what is kept of a past item: its vector with popularity, keys, values, and a part of the repeat score.

    `scaled_SD` is the product of all but the vector with the item vector scaled to unit root-mean-square.
    """

    scaled_SD: Floats
    repeat_popularity_ZP: Floats
    repeat_bias_Z: Floats


class Head(NamedTuple):
    """Of what comes behind the layers. Without attention over past items, H is 0."""

    past_query_YX: Floats
    past_query_bias_Y: Floats
    past_bias_H6: Floats
    past_bias_bias_H: Floats
    past_out_DD: Floats
    query_scale_D: Floats
    query_request_DR: Floats
    popularity_hidden_JX: Floats
    popularity_hidden_bias_J: Floats
    popularity_out_PJ: Floats
    popularity_out_bias_P: Floats
    repeat_features_6Z: Floats
    repeat_activity_6Z: Floats
    repeat_mid_ZZ: Floats  # [in, out]
    repeat_mid_bias_Z: Floats
    repeat_out_1Z: Floats
    repeat_out_bias_1: Floats
    repeat_query_KX: Floats
    repeat_query_bias_K: Floats
    repeat_key_K6: Floats
    repeat_key_bias_K: Floats


class Weights(NamedTuple):
    """All that one user's event and question need."""

    entry: Entry
    layers: Layers
    past: Past
    head: Head


def weights_of(contextualizer: Contextualizer, config: ModelConfig) -> Weights:
    """The weights as arrays. They take as much memory again as those of the module."""
    return Weights(
        _entry(contextualizer, config), _layers(contextualizer), _past(contextualizer, config), _head(contextualizer, config)
    )


def _entry(model: Contextualizer, config: ModelConfig) -> Entry:
    spec = config.context_spec
    edges = [field.edges for field in spec.fields if field not in spec.hashed]
    weight_DB, width = detached(model.context_in.weight), model.event_time_width
    return Entry(
        _own(weight_DB[:, :width].T),
        _own(weight_DB[:, width:].T),
        _own(detached(model.context_in.bias)),
        np.array([edge for of_field in edges for edge in of_field], np.float64),
        np.cumsum([0, *map(len, edges)], dtype=np.int64),
    )


def _layers(model: Contextualizer) -> Layers:
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    qkv = np.stack([detached(b.qkv.weight) * detached(b.attention_norm.weight) for b in blocks])
    gate_up = np.stack([detached(b.gate_up.weight) * detached(b.ffn_norm.weight) for b in blocks])
    out = np.stack([detached(b.attention_out.weight) for b in blocks])
    down = np.stack([detached(b.down.weight) for b in blocks])
    return Layers(qkv, out, gate_up, down, *map(_own, map(detached, (model.norm.weight, model.cos_LE, model.sin_LE))))


def _past(model: Contextualizer, config: ModelConfig) -> Past:
    (norm, item), first, width = model.repeat_item, model.repeat_mlp[0], config.repeat_item_width
    assert isinstance(first, nn.Linear)
    weight_ZX = detached(first.weight)
    kept_ZD = weight_ZX[:, -width:] @ (detached(item.weight) * detached(norm.weight))
    attention = model.past_attention
    scaled = []
    if attention is not None:
        scaled = [detached(linear.weight) * detached(attention.norm.weight) for linear in (attention.key, attention.value)]
    bias_Z = detached(first.bias) + weight_ZX[:, -width:] @ detached(item.bias)
    return Past(np.concatenate([*scaled, kept_ZD]), _own(weight_ZX[:, -width - config.num_popularity : -width]), bias_Z)


def _head(model: Contextualizer, config: ModelConfig) -> Head:
    attention, query_input = model.past_attention, model.popularity_hidden.in_features
    past = [np.zeros(shape, np.float32) for shape in ((0, query_input), (0,), (0, NUM_PAST_FEATURES), (0,), (0, 0))]
    if attention is not None:
        past = [*_linear(attention.query), *_linear(attention.bias), _own(detached(attention.out.weight))]
    request = model.query_request
    request_DR = np.zeros((config.width, query_input - config.width)) if request is None else detached(request.weight)
    first, mid, out = (model.repeat_mlp[i] for i in (0, 2, 4))
    assert isinstance(first, nn.Linear)
    assert isinstance(mid, nn.Linear)
    features_Z6, activity_Z6, _ = np.split(detached(first.weight), np.cumsum([NUM_PAST_FEATURES, NUM_ACTIVITY_FEATURES]), 1)
    parts = [
        *past,
        *map(_own, (detached(model.query_scale), request_DR)),
        *_linear(model.popularity_hidden),
        *_linear(model.popularity_out),
        *map(_own, (features_Z6.T, activity_Z6.T, detached(mid.weight).T, detached(mid.bias))),
        *_linear(out),
        *_linear(model.repeat_query),
        *_linear(model.repeat_key),
    ]
    return Head._make(parts)


def _linear(module: Any) -> tuple[Floats, Floats]:
    assert isinstance(module, nn.Linear)
    return _own(detached(module.weight)), _own(detached(module.bias))


def _own(array: npt.NDArray[Any]) -> Floats:
    return np.array(array, np.float32, order="C")


def detached(weights: Any) -> Floats:
    """Weights as an array that shares their memory."""
    result: Floats = weights.detach().numpy()
    return result
