"""What the model does for one user after one new event, as loops that numba compiles. `functions` compiles them.

Only that module imports this one, because it needs numba. A user's new event is a few hundred small operations, and with numpy
the calls cost more than the work. `service.model.incremental` has what these functions must compute; tests compare.

L: layers; D: width; F: hidden width of a layer; C: events a memory has room for; G: key/value heads; H: heads; E: head width;
M: past items; S: columns of what is kept of one; R: time features of a request; X: query input; V: vector width; A: width of a
head of the attention over past items; Z: hidden width of the repeat score; N: numeric features; T: time features
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int64, types
from numba.extending import register_jitable

from service.compiled.weights import Entry, Head, Layers, Past
from service.states.user_state import Rows
from twotower.data.features import DAY_MS, Floats
from twotower.data.item_statistics import HALF_LIVES_DAYS

# Sums may be taken in any order, which lets products use vector instructions. NaN and infinity stay what they are.
OPTIONS = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}

_F = TypeVar("_F", bound=Callable[..., Any])
_EPSILON = np.float32(np.finfo(np.float32).eps)
Numbers = npt.NDArray[np.float64]
_ZERO, _ONE = np.float32(0), np.float32(1)
_WEEK, _MONTH, _QUARTER = (1 / days for days in HALF_LIVES_DAYS)


def _inner(function: _F) -> _F:
    """Make a function callable from compiled ones."""
    return cast(_F, register_jitable(**OPTIONS)(function))


@_inner
def _product(weights: Floats, x: Floats, out: Floats) -> None:
    for row in range(weights.shape[0]):
        total = _ZERO
        for column in range(weights.shape[1]):
            total += weights[row, column] * x[column]
        out[row] = total


@_inner
def _add(x: Floats, times: np.float32, y: Floats) -> None:
    for i in range(len(x)):
        x[i] += times * y[i]


@_inner
def _add_product(x_MI: Floats, rows_IO: Floats, out_MO: Floats) -> None:
    """Add the product with the first rows of a matrix, of four at once: they are short, and loops over one alone are slow."""
    num_rows = x_MI.shape[1]
    num_fours = num_rows // 4 * 4
    for m in range(len(x_MI)):
        for i in range(0, num_fours, 4):
            x0, x1, x2, x3 = x_MI[m, i], x_MI[m, i + 1], x_MI[m, i + 2], x_MI[m, i + 3]
            for o in range(out_MO.shape[1]):
                out_MO[m, o] += x0 * rows_IO[i, o] + x1 * rows_IO[i + 1, o] + x2 * rows_IO[i + 2, o] + x3 * rows_IO[i + 3, o]
        for i in range(num_fours, num_rows):
            for o in range(out_MO.shape[1]):
                out_MO[m, o] += x_MI[m, i] * rows_IO[i, o]


@_inner
def _add_rows(times_M: Floats, rows_ME: Floats, out_E: Floats) -> None:
    """Add rows, each as many times as said."""
    _add_product(times_M.reshape(1, -1), rows_ME, out_E.reshape(1, -1))


@_inner
def _copy(source: Floats, target: Floats) -> None:
    for i in range(len(target)):
        target[i] = source[i]


@_inner
def _apply(weights: Floats, bias: Floats, x: Floats) -> Floats:
    out = np.empty(weights.shape[0], np.float32)
    _product(weights, x, out)
    _add(out, _ONE, bias)
    return out


@_inner
def _scale(x_D: Floats, out_D: Floats) -> None:
    """Divide by the root-mean-square."""
    total = _ZERO
    for i in range(len(x_D)):
        total += x_D[i] * x_D[i]
    inverse = _ONE / np.sqrt(total / np.float32(len(x_D)) + _EPSILON)
    for i in range(len(x_D)):
        out_D[i] = x_D[i] * inverse


@_inner
def _softmax(logit_M: Floats, highest: np.float32) -> None:
    total = _ZERO
    for m in range(len(logit_M)):
        logit_M[m] = math.exp(logit_M[m] - highest)
        total += logit_M[m]
    inverse = _ONE / total
    for m in range(len(logit_M)):
        logit_M[m] *= inverse


@_inner
def _mix(weight_M: Floats, values_ME: Floats, out_E: Floats) -> None:
    for e in range(len(out_E)):
        out_E[e] = _ZERO
    _add_rows(weight_M, values_ME, out_E)


@_inner
def _attend(q_E: Floats, keys_CE: Floats, values_CE: Floats, weight_T: Floats, out_E: Floats) -> None:
    """Attention of one head over as many events as `weight_T`, which is scratch, has room for."""
    highest = np.float32(-np.inf)
    for t in range(len(weight_T)):
        total = _ZERO
        for e in range(len(q_E)):
            total += q_E[e] * keys_CE[t, e]
        weight_T[t] = total
        highest = max(highest, total)
    _softmax(weight_T, highest)
    _mix(weight_T, values_CE, out_E)


@_inner
def _turn(heads_E: Floats, cos_E: Floats, sin_E: Floats) -> None:
    half = len(cos_E)
    for e in range(half):
        first, second = heads_E[e], heads_E[half + e]
        heads_E[e] = first * cos_E[e] - second * sin_E[e]
        heads_E[half + e] = first * sin_E[e] + second * cos_E[e]


@_inner
def _silu(x: np.float32) -> np.float32:
    return x / (_ONE + math.exp(-x))


@_inner
def _clock(time_ms: int, out_4: Floats) -> None:
    """Hour and weekday, each as a point on a circle."""
    days = time_ms / DAY_MS
    hour, week = (days % 1) * (2 * math.pi), (days % 7) * (2 * math.pi / 7)
    out_4[0], out_4[1], out_4[2], out_4[3] = math.sin(hour), math.cos(hour), math.sin(week), math.cos(week)


@_inner
def _add_number(entry: Entry, number: int, value: float, first: int, x_D: Floats) -> int:
    """Add what a numeric feature gives, in the columns of `piecewise_linear` from `first` on. Returns the next column."""
    start, stop = entry.starts[number], entry.starts[number + 1]
    last: int = first + max(stop - start - 1, 0)
    if not math.isfinite(value):
        _add(x_D, _ONE, entry.numbers_BD[last])
        return last + 1
    for column in range(first, last):
        low, high = entry.edges[start + column - first], entry.edges[start + column - first + 1]
        width = high - low if high > low else 1.0
        _add(x_D, np.float32(min(max((value - low) / width, 0.0), 1.0)), entry.numbers_BD[column])
    return last + 1


@_inner
def _first_input(entry: Entry, item_D: Floats, context_D: Floats, numbers_N: Numbers, before_ms: int, time_ms: int) -> Floats:
    """The input [D] of the first layer, from item, context, numbers and time. `before_ms` is -1 if no event was before."""
    x_D, column, times_6 = np.empty(len(item_D), np.float32), 0, np.zeros(6, np.float32)
    for i in range(len(x_D)):
        x_D[i] = item_D[i] + context_D[i] + entry.bias_D[i]
    for number in range(len(numbers_N)):
        column = _add_number(entry, number, numbers_N[number], column, x_D)
    if before_ms >= 0:
        times_6[0], times_6[1] = math.log1p(max(time_ms - before_ms, 0) / DAY_MS) / 3, np.float32(time_ms == before_ms)
    _clock(time_ms, times_6[2:])
    for i in range(len(entry.time_TD)):
        _add(x_D, times_6[i], entry.time_TD[i])
    return x_D


def read(
    entry: Entry,
    layers: Layers,
    item_D: Floats,
    context_D: Floats,
    numbers_N: Numbers,
    before_ms: int,
    time_ms: int,
    start: int,
    keys_LGCE: Floats,
    values_LGCE: Floats,
) -> Floats:
    """Read an event behind the first `start` ones of a memory; returns the hidden state [D] after it."""
    num_layers, width, D = layers.qkv_LWD.shape
    G, E, F = keys_LGCE.shape[1], keys_LGCE.shape[3], layers.down_LDF.shape[2]
    H = width // E - 2 * G
    x = _first_input(entry, item_D, context_D, numbers_N, before_ms, time_ms)
    scaled, mixed, added = np.empty(D, np.float32), np.empty(D, np.float32), np.empty(D, np.float32)
    heads, hidden, weight_T = np.empty(width, np.float32), np.empty(2 * F, np.float32), np.empty(start + 1, np.float32)
    scale = _ONE / np.sqrt(np.float32(E))
    for layer in range(num_layers):
        _scale(x, scaled)
        _product(layers.qkv_LWD[layer], scaled, heads)
        for head in range(H + G):
            _turn(heads[head * E : (head + 1) * E], layers.cos_CE[start], layers.sin_CE[start])
        for i in range(H * E):
            heads[i] *= scale
        for g in range(G):
            _copy(heads[(H + g) * E :], keys_LGCE[layer, g, start])
            _copy(heads[(H + G + g) * E :], values_LGCE[layer, g, start])
        for head in range(H):
            g, first, stop = head // (H // G), head * E, (head + 1) * E
            _attend(heads[first:stop], keys_LGCE[layer, g], values_LGCE[layer, g], weight_T, mixed[first:stop])
        _product(layers.out_LDD[layer], mixed, added)
        _add(x, _ONE, added)
        _scale(x, scaled)
        _product(layers.gate_up_LUD[layer], scaled, hidden)
        for i in range(F):
            hidden[i] = _silu(hidden[i]) * hidden[F + i]
        _product(layers.down_LDF[layer], hidden[:F], added)
        _add(x, _ONE, added)
    _scale(x, scaled)
    for i in range(D):
        scaled[i] *= layers.norm_D[i]
    return scaled


def keep(past: Past, vector_V: Floats) -> Floats:
    """What is kept of a past item, [1, S], from its vector with popularity; see `Past` for the columns."""
    D, V, Z = past.scaled_SD.shape[1], len(vector_V), len(past.repeat_bias_Z)
    S, scaled = V + len(past.scaled_SD), np.empty(D, np.float32)
    kept = np.empty((1, S), np.float32)
    _copy(vector_V, kept[0, :V])
    _scale(vector_V[:D], scaled)
    _product(past.scaled_SD, scaled, kept[0, V:])
    for z in range(Z):
        total = past.repeat_bias_Z[z]
        for p in range(V - D):
            total += past.repeat_popularity_ZP[z, p] * (np.float32(1.5) + vector_V[D + p] / np.float32(5))
        kept[0, S - Z + z] += total
    return kept


@_inner
def _features(past: Rows, now_ms: int, features_6M: Floats, activity_6: Floats) -> None:
    """See `past_features` and `activity_features` of `twotower.data.item_statistics`."""
    events, first_ms, week, month, quarter = 0.0, now_ms, 0.0, 0.0, 0.0
    for m in range(len(past.numbers_M4)):
        count, last_ms = past.numbers_M4[m, 1], past.numbers_M4[m, 3]
        days = max(now_ms - last_ms, 0) / DAY_MS
        w, n, q = (
            past.decayed_M3[m, 0] * np.exp2(-days * _WEEK),
            past.decayed_M3[m, 1] * np.exp2(-days * _MONTH),
            past.decayed_M3[m, 2] * np.exp2(-days * _QUARTER),
        )
        overdue = 0.0
        if count > 1:
            overdue = days / max((last_ms - past.numbers_M4[m, 2]) / DAY_MS / (count - 1), 0.5)
        features_6M[0, m] = math.log1p(count)
        features_6M[1, m], features_6M[2, m], features_6M[3, m] = math.log(q + 1e-3), math.log(n + 1e-3), math.log(w + 1e-3)
        features_6M[4, m], features_6M[5, m] = math.log1p(days), math.log1p(overdue)
        events, first_ms = events + count, min(first_ms, past.numbers_M4[m, 2])
        week, month, quarter = week + w, month + n, quarter + q
    days = (now_ms - first_ms) / DAY_MS
    for i, value in enumerate((events, float(len(past.numbers_M4)), days, week, month, quarter)):
        activity_6[i] = math.log1p(value) / 5


@_inner
def _taste(head: Head, query_X: Floats, features_6M: Floats, past: Rows) -> Floats:
    """What the attention over past items adds to the hidden state, [D]."""
    num_items, D, H = len(past.numbers_M4), len(head.past_out_DD), len(head.past_bias_H6)
    query_HA = _apply(head.past_query_YX, head.past_query_bias_Y, query_X)
    A, E, first = len(query_HA) // H, D // H, past.parts_MS.shape[1] - head.repeat_out_1Z.shape[1] - D - len(query_HA)
    scale, weight_M, taste_D = _ONE / np.sqrt(np.float32(A)), np.empty(num_items, np.float32), np.empty(D, np.float32)
    for h in range(H):
        highest, start = np.float32(-np.inf), first + h * A
        for m in range(num_items):
            weight_M[m] = head.past_bias_bias_H[h]
        _add_rows(head.past_bias_H6[h], features_6M, weight_M)
        for m in range(num_items):
            total = _ZERO
            for a in range(A):
                total += query_HA[h * A + a] * past.parts_MS[m, start + a]
            weight_M[m] += total * scale
            highest = max(highest, weight_M[m])
        _softmax(weight_M, highest)
        value = first + len(query_HA) + h * E
        _mix(weight_M, past.parts_MS[:, value : value + E], taste_D[h * E : (h + 1) * E])
    out_D = np.empty(D, np.float32)
    _product(head.past_out_DD, taste_D, out_D)
    return out_D


@_inner
def _vector(head: Head, query_X: Floats, added_D: Floats) -> Floats:
    D = len(head.query_scale_D)
    hidden = _apply(head.popularity_hidden_JX, head.popularity_hidden_bias_J, query_X)
    for i in range(len(hidden)):
        hidden[i] = _silu(hidden[i])
    weights = _apply(head.popularity_out_PJ, head.popularity_out_bias_P, hidden)
    query_V, request_D = np.empty(D + len(weights), np.float32), np.empty(D, np.float32)
    _product(head.query_request_DR, query_X[D:], request_D)
    for i in range(D):
        query_V[i] = (query_X[i] + request_D[i]) * head.query_scale_D[i] + added_D[i]
    _copy(weights, query_V[D:])
    return query_V


@_inner
def _scores(head: Head, query_X: Floats, query_V: Floats, features_6M: Floats, activity_6: Floats, past: Rows) -> Floats:
    """Full scores [M] of past items: products with the query vector, and repeat scores."""
    Z, num_items, S = head.repeat_out_1Z.shape[1], len(past.parts_MS), past.parts_MS.shape[1]
    scores_M, same_Z, by_feature_6 = np.empty(num_items, np.float32), np.zeros(Z, np.float32), np.zeros(6, np.float32)
    before_MZ, after_MZ = np.empty((num_items, Z), np.float32), np.empty((num_items, Z), np.float32)
    _add_rows(activity_6, head.repeat_activity_6Z, same_Z)
    rank_K, base = _apply(head.repeat_query_KX, head.repeat_query_bias_K, query_X), head.repeat_out_bias_1[0]
    _add_rows(rank_K, head.repeat_key_K6, by_feature_6)
    for k in range(len(rank_K)):
        base += rank_K[k] * head.repeat_key_bias_K[k]
    for m in range(num_items):
        for z in range(Z):
            value = same_Z[z] + past.parts_MS[m, S - Z + z]
            for f in range(6):
                value += features_6M[f, m] * head.repeat_features_6Z[f, z]
            before_MZ[m, z], after_MZ[m, z] = max(value, _ZERO), head.repeat_mid_bias_Z[z]
    _add_product(before_MZ, head.repeat_mid_ZZ, after_MZ)
    for m in range(num_items):
        total = base
        for f in range(6):
            total += by_feature_6[f] * features_6M[f, m]
        for z in range(Z):
            total += max(after_MZ[m, z], _ZERO) * head.repeat_out_1Z[0, z]
        for v in range(len(query_V)):
            total += query_V[v] * past.parts_MS[m, v]
        scores_M[m] = total
    return scores_M


def ask(head: Head, hidden_D: Floats, added_D: Floats, past: Rows, now_ms: int, last_ms: int) -> tuple[Floats, Floats]:
    """Query vector [V] and full scores of past items [M], at `now_ms`. `added_D` is added to the query vector."""
    D, R, num_items = len(hidden_D), head.query_request_DR.shape[1] - 6, len(past.numbers_M4)
    features_6M, times_7 = np.empty((6, num_items), np.float32), np.empty(7, np.float32)
    season = now_ms / DAY_MS * (2 * math.pi / 365.2425)
    times_7[0], times_7[5], times_7[6] = math.log1p(max(now_ms - last_ms, 0) / DAY_MS) / 3, math.sin(season), math.cos(season)
    _clock(now_ms, times_7[1:])
    query_X = np.empty(D + R + 6, np.float32)
    activity_6 = query_X[D + R :]
    _copy(hidden_D, query_X[:D])
    _copy(times_7, query_X[D : D + R])
    _features(past, now_ms, features_6M, activity_6)
    if num_items and len(head.past_bias_H6):
        _add(query_X[:D], _ONE, _taste(head, query_X, features_6M, past))
    query_V = _vector(head, query_X, added_D)
    return query_V, _scores(head, query_X, query_V, features_6M, activity_6, past)


def _weights(names: tuple[str, ...], of: type) -> Any:
    """The type of weights whose names end in one letter for each axis."""
    return types.NamedTuple([_array(float32, len(name.rpartition("_")[2])) for name in names], of)


def _array(number: Any, axes: int) -> Any:
    return types.Array(number, axes, "C")


_numbers, _vector_type, _memory = _array(float64, 1), _array(float32, 1), _array(float32, 4)
_entry = types.NamedTuple([_array(float32, 2), _array(float32, 2), _vector_type, _numbers, _array(int64, 1)], Entry)
_rows = types.NamedTuple([_array(int64, 2), _array(float64, 2), _array(float32, 2)], Rows)
_event = (_vector_type, _vector_type, _numbers, int64, int64)
READ = _vector_type(_entry, _weights(Layers._fields, Layers), *_event, int64, _memory, _memory)
ASK = types.Tuple([_vector_type, _vector_type])(_weights(Head._fields, Head), _vector_type, _vector_type, _rows, int64, int64)
KEEP = _array(float32, 2)(_weights(Past._fields, Past), _vector_type)
