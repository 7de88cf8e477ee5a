"""The layers over many events: attention is torch's, and what is read in one pass does not matter."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from service.model import packed_layers
from service.model.packed_layers import PackedLayers, attend
from service.release.loaded import LoadedRelease
from service.states.memory import ArrayMemory
from twotower.data.features import Floats
from twotower.kernels.packed_attention import causal_attention

GROUPS, HEADS, HALF = 2, 3, 4  # heads of each group


@pytest.fixture(scope="module")
def layers(release: LoadedRelease) -> PackedLayers:
    return PackedLayers(release.towers.contextualizer, release.towers.config.model)


def drawn(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def read(layers: PackedLayers, release: LoadedRelease, counts: list[int], x_TD: Floats) -> tuple[Floats, list[ArrayMemory]]:
    memories = [ArrayMemory(release.towers.config.model) for _ in counts]
    for memory, count in zip(memories, counts, strict=True):
        memory.make_room(count)
    return layers.read(memories, counts, x_TD), memories


@pytest.mark.parametrize(("new", "known"), [(1, 0), (1, 70), (2, 1), (64, 0), (65, 0), (64, 64), (130, 7), (256, 0)])
def test_attention_is_that_of_torch(new: int, known: int) -> None:
    halves_TGRE, keys, values = drawn(new, GROUPS, HEADS, 2 * HALF), *drawn(2, GROUPS, new + known, 2 * HALF)
    heads_HTE = torch.from_numpy(halves_TGRE.reshape(new, GROUPS * HEADS, -1)).transpose(0, 1)
    expected = causal_attention(heads_HTE[None], *(torch.from_numpy(x)[None] for x in (keys, values)))[0].transpose(0, 1)
    pairs = (halves_TGRE[..., :HALF] + 1j * halves_TGRE[..., HALF:]).astype(np.complex64) / np.sqrt(2 * HALF)
    mixed = np.full_like(halves_TGRE, np.nan)
    attend(pairs.astype(np.complex64), keys, values, mixed)
    np.testing.assert_allclose(mixed.reshape(new, GROUPS * HEADS, -1), expected, atol=2e-6)


def test_histories_of_several_passes_are_read_as_each_alone(
    layers: PackedLayers, release: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [3, 60, 64, 1, 100, 2]
    x_TD = drawn(sum(counts), release.towers.config.model.width)
    for most in (64, 10_000):
        monkeypatch.setattr(packed_layers, "MOST_EVENTS", most)
        together_QD, memories = read(layers, release, counts, x_TD)
        for place, (start, stop) in enumerate(pairwise(np.cumsum([0, *counts]))):
            alone_QD, (alone,) = read(layers, release, [stop - start], x_TD[start:stop])
            np.testing.assert_allclose(together_QD[place], alone_QD[0], atol=1e-5)
            for stored in ("keys_LGCE", "values_LGCE"):
                ours, theirs = (getattr(m, stored)[:, :, : stop - start] for m in (memories[place], alone))
                np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_rounded_products_err_by_their_last_digits(layers: PackedLayers, release: LoadedRelease) -> None:
    rounded = PackedLayers(release.towers.contextualizer, release.towers.config.model, torch.bfloat16)
    x_TD = drawn(80, release.towers.config.model.width)
    (exact_QD, (exact,)), (near_QD, (near,)) = (read(each, release, [80], x_TD) for each in (layers, rounded))
    for ours, theirs in ((near_QD, exact_QD), (near.keys_LGCE[:, :, :80], exact.keys_LGCE[:, :, :80])):
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert 1e-4 < error < 0.05


def test_events_are_not_changed(layers: PackedLayers, release: LoadedRelease) -> None:
    x_TD = drawn(5, release.towers.config.model.width)
    before_TD = x_TD.copy()
    read(layers, release, [5], x_TD)
    np.testing.assert_array_equal(x_TD, before_TD)


@pytest.mark.parametrize(
    ("counts", "passes"),
    [([5], [(0, 1)]), ([600], [(0, 1)]), ([256, 256, 1], [(0, 2), (2, 3)]), ([600, 2, 600], [(0, 1), (1, 2), (2, 3)])],
)
def test_a_pass_has_few_events_and_at_least_one_history(counts: list[int], passes: list[tuple[int, int]]) -> None:
    found = list(packed_layers._passes(counts))
    assert [(histories.start, histories.stop) for histories, _ in found] == passes
    assert [events.stop - events.start for _, events in found] == [sum(counts[a:b]) for a, b in passes]
