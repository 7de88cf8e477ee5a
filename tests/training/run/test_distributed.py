"""Two processes compute the same losses as one, and end when one of them dies."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch

from tests.training.conftest import Shop, searching
from tests.training.train_tiny import Errand, read_losses, start
from training.data.batches import Axis, TrainBatch
from training.losses.objective import FrozenItems
from training.recipes.config import TrainConfig
from training.run.checkpoint import RunDirectory, identify, newest_checkpoint
from training.run.distributed import ALONE, World, launched_world, pick, shard_batch
from training.run.loop import TrainInputs, TrainState, draw_trained_items, embed_catalogue_once, prepare_training, train

ROOT = Path(__file__).parents[3]
RANKS = [World(rank, size=2) for rank in range(2)]


@pytest.fixture(scope="module")
def config(shop: Shop) -> TrainConfig:
    """Without dropout, which each rank draws for itself."""
    return msgspec.structs.replace(shop.config, dropout=0.0, checkpoint_minutes=0.0)


@pytest.fixture(scope="module")
def prepared(shop: Shop, config: TrainConfig) -> tuple[TrainInputs, TrainState]:
    return prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)


@pytest.fixture
def batch(prepared: tuple[TrainInputs, TrainState]) -> TrainBatch:
    return prepared[0].sampler.sample(np.random.default_rng(1))


@pytest.fixture(scope="module")
def losses_alone(prepared: tuple[TrainInputs, TrainState], shop: Shop, config: TrainConfig) -> list[float]:
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    return train(inputs, state).losses


def test_without_torchrun_a_process_is_alone() -> None:
    assert launched_world(None) == ALONE


def test_the_ranks_hold_every_window_query_own_item_and_answer_once(batch: TrainBatch) -> None:
    parts = [shard_batch(batch, world) for world in RANKS]
    assert [len(part.users_B) for part in parts] == [2, 1]
    assert sum(len(part.window_Q) for part in parts) == len(batch.window_Q)
    assert sum(len(part.past.rows_M) for part in parts) == len(batch.past.rows_M)
    assert sum(part.answer_weights_A.sum().item() for part in parts) == pytest.approx(1)
    second = parts[1]
    assert second.users_B.tolist() == [batch.users_B[1]]
    assert set(second.window_Q.tolist()) == {0}
    assert second.now_ms_Q.tolist() == batch.now_ms_Q[batch.window_Q.numpy() == 1].tolist()
    first_query = int(torch.nonzero(batch.window_Q == 1)[0])
    wanted = batch.answer_rows_A[batch.answer_query_A == first_query]
    assert second.answer_rows_A[second.answer_query_A == 0].tolist() == wanted.tolist()


def test_every_field_of_a_batch_is_shared_along_the_axis_of_its_metadata(batch: TrainBatch) -> None:
    """The lengths tell: they are different for windows, queries, past items, answers and searches."""
    lengths = {
        "B": len(batch.users_B),
        "Q": len(batch.window_Q),
        "M": len(batch.past.rows_M),
        "A": len(batch.answer_rows_A),
        "S": len(batch.searches),
    }
    assert len(set(lengths.values())) == len(lengths)
    for field in fields(batch):
        value, axis, exceptions = getattr(batch, field.name), field.metadata["axis"], field.metadata["exceptions"]
        inner = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {field.name: value}
        assert set(exceptions) <= set(inner)
        assert {name: len(rows) for name, rows in inner.items()} == {n: lengths[exceptions.get(n, axis)] for n in inner}


def test_every_rank_keeps_all_searches_and_their_losses_add_up(shop: Shop, config: TrainConfig, tiny_shop: Path) -> None:
    sampler = searching(shop, tiny_shop)
    inputs, state = prepare_training(config, sampler.model, shop.items, sampler, shop.data.snapshots)
    batch = sampler.sample(np.random.default_rng(1))
    parts = [shard_batch(batch, world) for world in RANKS]
    assert [len(part.searches) for part in parts] == [len(batch.searches)] * 2
    rows = torch.cat([part.histories.item_rows_BL.flatten() for part in parts])
    assert sorted((-1 - rows[rows < 0]).tolist()) == list(range(len(batch.searches)))
    whole = state.objective(batch, draw_trained_items(inputs, state, batch))
    scored = draw_trained_items(replace(inputs, world=RANKS[0]), state, batch)
    torch.testing.assert_close(sum(state.objective(part, scored) for part in parts), whole)


@pytest.mark.parametrize("stage", ["trained", "frozen"])
def test_the_ranks_losses_add_up_to_the_loss(
    prepared: tuple[TrainInputs, TrainState], batch: TrainBatch, stage: Literal["trained", "frozen"]
) -> None:
    inputs, state = prepared
    scored = (
        draw_trained_items(inputs, state, batch) if stage == "trained" else FrozenItems(embed_catalogue_once(inputs, state), None)
    )
    whole = state.objective(batch, scored)
    parts = [state.objective(shard_batch(batch, world), scored) for world in RANKS]
    torch.testing.assert_close(parts[0] + parts[1], whole)


@pytest.mark.parametrize("stage", ["trained", "frozen"])
def test_a_rank_without_queries_takes_part_with_a_loss_of_zero(
    prepared: tuple[TrainInputs, TrainState], batch: TrainBatch, stage: Literal["trained", "frozen"]
) -> None:
    """Every weight that the others train gets a gradient there too, or they would wait for it."""
    inputs, state = prepared
    scored = (
        draw_trained_items(inputs, state, batch) if stage == "trained" else FrozenItems(embed_catalogue_once(inputs, state), None)
    )
    part = shard_batch(batch, RANKS[1])
    counts: dict[Axis, int] = {
        "B": len(part.users_B),
        "Q": len(part.window_Q),
        "M": len(part.past.rows_M),
        "A": len(part.answer_rows_A),
        "S": len(part.searches),
    }
    silent = pick(part, {axis: torch.full((count,), axis == "B") for axis, count in counts.items()})
    assert len(silent.window_Q) == 0
    state.objective.zero_grad(set_to_none=True)
    loss = state.objective(silent, scored)
    loss.backward()
    assert loss.item() == 0
    trained = state.objective if stage == "trained" else state.objective.contextualizer
    assert all(p.grad is not None and not p.grad.any() for p in trained.parameters())


def test_two_ddp_processes_of_torchrun_train_as_one(
    tiny_shop: Path, config: TrainConfig, losses_alone: list[float], tmp_path: Path
) -> None:
    errand = Errand(shop=str(tiny_shop), run=str(tmp_path / "run"), losses=str(tmp_path / "losses"), config=config)
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, "-m", "tests.training.train_tiny", msgspec.json.encode(errand).decode()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    steps, losses = zip(*read_losses(tmp_path / "losses"), strict=True)
    assert steps == tuple(range(1, 11)), "only rank 0 writes"
    assert losses == pytest.approx(losses_alone, abs=1e-5)


def test_two_fsdp_processes_end_when_one_dies_and_resume_to_train_as_one(
    tiny_shop: Path, config: TrainConfig, losses_alone: list[float], tmp_path: Path
) -> None:
    sharded = msgspec.structs.replace(config, sharding="fsdp")
    errand = Errand(shop=str(tiny_shop), run=str(tmp_path / "run"), losses=str(tmp_path / "losses"), config=sharded)
    deadly = msgspec.structs.replace(errand, dies_in="training.run.loop:learning_rate", dies_at=3, dying_rank=1)
    survivor, victim = exit_codes(deadly)
    assert victim == -signal.SIGKILL
    assert survivor == 1, "it ends with an error, though nobody told it to"
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert newest.name == "step-000000003"
    assert exit_codes(errand) == [0, 0]
    steps, losses = zip(*read_losses(tmp_path / "losses"), strict=True)
    assert steps == tuple(range(1, 11))
    assert losses == pytest.approx(losses_alone, abs=1e-5)


def test_two_fsdp_processes_stop_together_and_go_back_to_the_same_weights(
    tiny_shop: Path, shop: Shop, config: TrainConfig, tmp_path: Path
) -> None:
    """Step 3 is the best of stage 1, so a stage 2 from other weights than those would have other losses."""
    values = (0.1, 0.2, 0.5, 0.4, 0.4, 0.3, 0.2)
    patient = msgspec.structs.replace(config, patience=2, sharding="fsdp", checkpoint_minutes=5.0)
    files = RunDirectory(tmp_path / "alone", identify(patient, shop.model, shop.items, shop.sampler()), shop.data.item_ids)
    inputs, state = prepare_training(patient, shop.model, shop.items, shop.sampler(), shop.data.snapshots, files)
    alone = train(inputs, state, lambda report: values[report.step - 1]).losses

    errand = Errand(
        shop=str(tiny_shop), run=str(tmp_path / "run"), losses=str(tmp_path / "losses"), config=patient, values=values
    )
    assert exit_codes(errand) == [0, 0]
    steps, losses = zip(*read_losses(tmp_path / "losses"), strict=True)
    assert steps == tuple(range(1, 8))
    assert losses == pytest.approx(alone, abs=1e-5)


def exit_codes(errand: Errand) -> list[int | None]:
    """Of two ranks, started as torchrun starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [start(errand, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", **place) for rank in range(2)]
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]
