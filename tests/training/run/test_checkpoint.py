"""A run that is killed and resumed ends as one that was not killed. A checkpoint of another run is refused."""

import signal
from pathlib import Path

import msgspec
import pytest
import torch

from tests.training.conftest import Shop
from tests.training.train_tiny import Errand, read_losses, start
from training.recipes.config import TrainConfig
from training.run.checkpoint import (
    CheckpointMismatch,
    Identity,
    RunDirectory,
    compare,
    forget_checkpoints,
    identify,
    newest_checkpoint,
    refuse_unfinished,
)
from training.run.loop import StepReport, TrainState, prepare_training, resumed, train
from twotower.data.signals import SignalReport, Signals
from twotower.errors import EnvironmentProblem, IntegrityError


class Killed(Exception):
    """Stands for what may end a process."""


@pytest.fixture(scope="module")
def config(shop: Shop) -> TrainConfig:
    """A checkpoint after every step."""
    return msgspec.structs.replace(shop.config, checkpoint_minutes=0.0)


def files_of(shop: Shop, config: TrainConfig, path: Path) -> RunDirectory:
    return RunDirectory(path, identify(config, shop.model, shop.items, shop.sampler()), shop.data.item_ids)


def run_on(shop: Shop, config: TrainConfig, files: RunDirectory, until_step: int = 1000) -> TrainState:
    """Resume, and train to the end or until killed."""

    def kill(report: StepReport) -> None:
        if report.step > until_step:
            raise Killed

    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots, files)
    return train(inputs, resumed(inputs, state), kill)


@pytest.fixture(scope="module")
def uninterrupted(shop: Shop, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainState:
    return run_on(shop, config, files_of(shop, config, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("step", [0, 3, 6, 8, 10], ids=lambda s: f"after step {s}")
def test_a_resumed_run_ends_with_the_same_losses_and_weights(
    shop: Shop, config: TrainConfig, uninterrupted: TrainState, tmp_path: Path, step: int
) -> None:
    files = files_of(shop, config, tmp_path)
    if step < 10:
        with pytest.raises(Killed):
            run_on(shop, config, files, until_step=step)
    else:
        run_on(shop, config, files)
    state = run_on(shop, config, files)
    assert state.losses == uninterrupted.losses
    assert state.step == uninterrupted.step
    wanted = uninterrupted.objective.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.objective.state_dict().items())


def test_kill_9_at_any_moment_leaves_a_run_that_ends_with_the_same_losses(
    shop: Shop, tiny_shop: Path, config: TrainConfig, uninterrupted: TrainState, tmp_path: Path
) -> None:
    """While a checkpoint is written, when it is about to appear, while the one before is removed, and in a step."""
    losses = tmp_path / "losses"
    errand = Errand(shop=str(tiny_shop), run=str(tmp_path / "run"), losses=str(losses), config=config)
    for dies_in, step in [
        ("training.run.checkpoint:seal", 3),
        ("training.run.checkpoint:move_into_place", 6),
        ("training.run.checkpoint:forget", 8),
        ("training.run.loop:learning_rate", 9),
    ]:
        assert exit_code(msgspec.structs.replace(errand, dies_in=dies_in, dies_at=step)) == -signal.SIGKILL
    assert exit_code(errand) == 0
    expected = list(enumerate(uninterrupted.losses, start=1))
    assert read_losses(losses) == [*expected[:3], *expected[2:6], *expected[5:8], *expected[8:9], *expected[9:]]
    assert [path.name for path in (tmp_path / "run" / "checkpoint").iterdir()] == ["step-000000010"]


def exit_code(errand: Errand) -> int | None:
    process = start(errand)
    process.join()
    return process.exitcode


def test_only_the_newest_checkpoint_is_kept_and_none_when_the_run_is_over(
    shop: Shop, config: TrainConfig, tmp_path: Path
) -> None:
    files = files_of(shop, config, tmp_path)
    with pytest.raises(Killed):
        run_on(shop, config, files, until_step=2)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert list(newest.parent.iterdir()) == [newest]
    forget_checkpoints(tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_a_run_saves_only_as_often_as_its_config_says(shop: Shop, tmp_path: Path) -> None:
    run_on(shop, shop.config, files_of(shop, shop.config, tmp_path))
    assert newest_checkpoint(tmp_path) is None, "ten steps take less than five minutes"


def test_a_new_run_does_not_overwrite_an_unfinished_one(shop: Shop, config: TrainConfig, tmp_path: Path) -> None:
    refuse_unfinished(tmp_path)
    run_on(shop, config, files_of(shop, config, tmp_path))
    with pytest.raises(EnvironmentProblem, match="--resume, or delete"):
        refuse_unfinished(tmp_path)


def test_another_config_is_refused(shop: Shop, config: TrainConfig, tmp_path: Path) -> None:
    run_on(shop, config, files_of(shop, config, tmp_path))
    other = msgspec.structs.replace(config, learning_rate=1e-3, seed=7)
    with pytest.raises(CheckpointMismatch, match=r"learning_rate was 0.002, now it is 0.001; seed was 0, now it is 7.*--run"):
        run_on(shop, other, files_of(shop, other, tmp_path))


def test_other_data_and_another_catalogue_are_told_apart(shop: Shop, config: TrainConfig) -> None:
    was = identify(config, shop.model, shop.items, shop.sampler())
    sampler = shop.sampler()
    sampler.bound_K = sampler.bound_K - 1
    assert compare(was, identify(config, shop.model, shop.items, shop.sampler())) == []
    assert compare(was, identify(config, shop.model, shop.items, sampler)) == ["its events, items or signals are different"]
    fewer = identify(config, shop.model, shop.items.take(torch.arange(399).numpy()), sampler)
    assert compare(was, fewer) == ["its catalogue has 400 items, this one 399"]
    days = torch.arange(2).numpy()
    signals = Signals(400, days.astype("int32"), days, days + 1, days[:, None].astype("float32"), SignalReport(2, 0, (), 0))
    announced = identify(config, shop.model, shop.items, shop.sampler(), signals)
    assert compare(was, announced) == ["its events, items or signals are different"]


def test_another_program_s_model_is_told_from_other_data(shop: Shop, config: TrainConfig) -> None:
    was = identify(config, shop.model, shop.items, shop.sampler())
    now = msgspec.structs.replace(was, model=msgspec.structs.replace(shop.model, repeat_rank=16))
    assert isinstance(now, Identity)
    assert compare(was, now) == ["this version of twotower builds another model"]


def test_ranks_that_do_not_share_a_file_system_are_refused(
    shop: Shop, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.checkpoint.agreed", lambda *_: 5.0)
    with pytest.raises(EnvironmentProblem, match=r"the checkpoint of step 0 .* rank 0 that of step 5: put --run on"):
        run_on(shop, config, files_of(shop, config, tmp_path))


def test_a_damaged_checkpoint_is_refused(shop: Shop, config: TrainConfig, tmp_path: Path) -> None:
    files = files_of(shop, config, tmp_path)
    run_on(shop, config, files)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    weights = bytearray((newest / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "weights.safetensors").write_bytes(weights)
    with pytest.raises(IntegrityError, match="without --resume"):
        run_on(shop, config, files)
