"""Training and evaluation as on a GPU: Triton's interpreter runs every kernel of theirs, and the figures stay what they are."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from tests.interpreter import checked, triton
from tests.test_kernel_callers import callers_of_page
from tests.training.conftest import TINY, Shop, read_shop
from training.evaluation.rankers import Model, next_basket, rank
from training.kernels import frozen_softmax, trained_softmax
from training.kernels.candidates import aligned
from training.recipes.config import StageConfig
from training.run.loop import TrainState, prepare_training, train
from twotower.kernels import dispatch
from twotower.model.catalogue import embed_rows

CONFIG = msgspec.structs.replace(
    TINY,
    width=64,
    stages=(
        StageConfig(share=0.5, num_negatives=32, train_embedder=True, max_steps=2),
        StageConfig(share=0.5, num_negatives=None, train_embedder=False, max_steps=1),
    ),
    max_queries=12,
)


@pytest.fixture(scope="module")
def small(tiny_shop: Path) -> Shop:
    return read_shop(tiny_shop, CONFIG)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Every operation runs in Triton, as on a GPU; counts the launches of each kernel."""
    counted = Counter[str]()
    executor = triton.runtime.interpreter.GridExecutor
    launch = executor.__call__

    def count(self: object, *arguments: object, **options: object) -> object:
        counted[self.fn.__name__] += 1  # type: ignore[attr-defined]
        return launch(self, *arguments, **options)

    for module in (dispatch, frozen_softmax, trained_softmax):
        monkeypatch.setattr(module, "use_triton", lambda *_: True)
    monkeypatch.setattr(executor, "__call__", count)
    with checked():
        yield counted


def trained(shop: Shop) -> TrainState:
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    state.objective.popularity_PTN = aligned(state.objective.popularity_PTN)  # as on a GPU
    return train(inputs, state)


@pytest.fixture(scope="module")
def without_kernels(small: Shop) -> TrainState:
    return trained(small)


def kernels_of(command: str) -> set[str]:
    return {kernel for kernel, commands in callers_of_page().items() if command in commands}


def test_both_stages_train_alike_and_launch_every_kernel_that_the_page_says(
    small: Shop, without_kernels: TrainState, launched: Counter[str]
) -> None:
    state = trained(small)
    assert state.losses == pytest.approx(without_kernels.losses, rel=1e-4)
    assert launched.keys() == kernels_of("train")
    for ours, theirs in zip(state.objective.parameters(), without_kernels.objective.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_an_evaluation_ranks_alike_and_launches_every_kernel_that_the_page_says(
    small: Shop, without_kernels: TrainState, launched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, data = without_kernels.objective.eval(), small.data
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:3]

    def scores() -> torch.Tensor:
        vectors_ND = embed_rows(objective.embedder, small.items).clone()
        model = Model(objective.contextualizer, small.model, vectors_ND, data.log, data.snapshots)
        return torch.from_numpy(rank({"model": model}, data.log, queries, data.train_count_N)["model"].nll_A)

    found = scores()
    assert launched.keys() == kernels_of("evaluate")
    monkeypatch.undo()
    torch.testing.assert_close(found, scores(), rtol=1e-4, atol=1e-4)
