"""User states in a file: as they were, never another, and bounded."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.histories.history import StoredEvent
from service.release.loaded import LoadedRelease
from service.states.memory import ArrayMemory
from service.states.state_file import FILE, State, StateFile
from twotower.model.config import ModelConfig

ANN, BOB = ("user", "ann"), ("user", "bob")
BUNDLE = "bundle-000000000001"
EVENTS = tuple(StoredEvent(user_id="ann", event_type="view", time_ms=n, item_id=f"i{n}") for n in range(70))


@pytest.fixture
def troubles() -> list[int]:
    return []


@pytest.fixture
def file(tmp_path: Path, troubles: list[int]) -> Iterator[StateFile]:
    file = StateFile(tmp_path, 1 << 24, lambda: troubles.append(1))
    yield file
    file.close()


def reopened(file: StateFile, tmp_path: Path, troubles: list[int], max_bytes: int = 1 << 24) -> StateFile:
    """As the next server finds it: what waited is written."""
    file.close()
    file.__init__(tmp_path, max_bytes, lambda: troubles.append(1))  # type: ignore[misc] # so that the fixture closes it
    return file


@pytest.fixture
def config(release: LoadedRelease) -> ModelConfig:
    return release.towers.config.model


def state_of(config: ModelConfig, num_events: int, seed: int = 0) -> State:
    rng, memory = np.random.default_rng(seed), ArrayMemory(config)
    memory.make_room(num_events)
    for part in (memory.keys_LGCE, memory.values_LGCE):
        part[:, :, :num_events] = rng.normal(size=part[:, :, :num_events].shape)
    memory.length, memory.last_D = num_events, rng.normal(size=config.width).astype(np.float32)
    return State(EVENTS[:num_events], memory, rng.integers(0, 2**63, num_events).astype(np.uint64))


def check_same(found: State | None, state: State, length: int) -> None:
    assert found is not None
    assert (found.memory.length, tuple(found.events)) == (length, EVENTS[:length])
    for ours, theirs in (
        (found.memory.keys_LGCE, state.memory.keys_LGCE),
        (found.memory.values_LGCE, state.memory.values_LGCE),
    ):
        np.testing.assert_array_equal(ours[:, :, :length], theirs[:, :, :length])
    np.testing.assert_array_equal(found.prints_L, state.prints_L[:length])


@pytest.mark.parametrize(("asked", "length"), [(70, 65), (65, 65), (3, 3), (0, 0)])
def test_a_state_comes_back_as_far_as_its_events_are_those_of_the_request(
    file: StateFile, tmp_path: Path, troubles: list[int], config: ModelConfig, asked: int, length: int
) -> None:
    state = state_of(config, 65)
    assert file.keep(ANN, state, BUNDLE)
    found = reopened(file, tmp_path, troubles).find(ANN, BUNDLE, EVENTS[:asked], ArrayMemory(config))
    check_same(found, state, length)
    assert found is not None
    assert found.memory.knows_last is (length == 65), "the hidden state is of the last event alone"
    assert not troubles


def test_a_state_is_only_of_its_user_its_events_and_its_bundle(
    file: StateFile, tmp_path: Path, troubles: list[int], config: ModelConfig
) -> None:
    file.keep(ANN, state_of(config, 5), BUNDLE)
    reopened(file, tmp_path, troubles)
    assert file.find(BOB, BUNDLE, EVENTS, ArrayMemory(config)) is None
    assert file.find(("session", "ann"), BUNDLE, EVENTS, ArrayMemory(config)) is None
    assert not troubles
    assert file.find(ANN, "bundle-000000000002", EVENTS, ArrayMemory(config)) is None
    assert len(troubles) == 1
    found = file.find(ANN, BUNDLE, EVENTS[1:], ArrayMemory(config))
    assert found is not None
    assert found.memory.length == 0


def test_no_id_stands_in_the_file_and_a_deleted_user_leaves_nothing(
    file: StateFile, tmp_path: Path, troubles: list[int], config: ModelConfig
) -> None:
    state = state_of(config, 60)
    mark = state.memory.keys_LGCE[0, 0, :20].tobytes()
    file.keep(ANN, state, BUNDLE)
    reopened(file, tmp_path, troubles)
    assert mark in contents(tmp_path)
    assert b"ann" not in contents(tmp_path)
    file.forget(ANN)
    assert mark not in contents(tmp_path)
    assert file.find(ANN, BUNDLE, EVENTS, ArrayMemory(config)) is None


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


def test_a_full_file_loses_what_was_written_first(tmp_path: Path, troubles: list[int], config: ModelConfig) -> None:
    file = StateFile(tmp_path, 1 << 21, lambda: troubles.append(1))
    state = state_of(config, 64)
    for number in range(200):
        assert file.keep(("user", str(number)), state, BUNDLE, wait_s=10)
    file = reopened(file, tmp_path, troubles, 1 << 21)
    kept = [number for number in range(200) if file.find(("user", str(number)), BUNDLE, EVENTS, ArrayMemory(config))]
    assert kept
    assert kept == list(range(200 - len(kept), 200))
    assert (tmp_path / FILE).stat().st_size < 2 << 21
    assert not troubles
    file.close()


def test_flipped_bits_are_a_miss_and_never_another_state(tmp_path: Path, config: ModelConfig) -> None:
    rng, state, num_found, troubles = np.random.default_rng(0), state_of(config, 20), 0, list[int]()
    for number in range(60):
        directory = tmp_path / str(number)
        file = StateFile(directory, 1 << 24, lambda: None)
        file.keep(ANN, state, BUNDLE)
        file.close()
        content = bytearray((directory / FILE).read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (directory / FILE).write_bytes(content)
        file = StateFile(directory, 1 << 24, lambda: troubles.append(1))
        if found := file.find(ANN, BUNDLE, EVENTS, ArrayMemory(config)):
            check_same(found, state, 20)
            num_found += 1
        file.keep(BOB, state, BUNDLE)
        file.close()
    assert 0 < num_found < 60
    assert troubles


def test_a_file_that_is_none_is_made_anew(tmp_path: Path, troubles: list[int], config: ModelConfig) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    file = StateFile(tmp_path, 1 << 24, lambda: troubles.append(1))
    state = state_of(config, 5)
    file.keep(ANN, state, BUNDLE)
    check_same(reopened(file, tmp_path, troubles).find(ANN, BUNDLE, EVENTS, ArrayMemory(config)), state, 5)
    file.close()


WRITER = """
    import sys
    from pathlib import Path
    from service.release.loading import load_release
    from service.states.state_file import StateFile
    from tests.service.states.test_state_file import BUNDLE, state_of
    config = load_release(Path(sys.argv[1])).towers.config.model
    file, states = StateFile(Path(sys.argv[2]), 1 << 22, lambda: None), [state_of(config, 64, seed) for seed in range(8)]
    print("begun", flush=True)
    while True:
        for seed, state in enumerate(states):
            file.keep(("user", str(seed)), state, BUNDLE, wait_s=60)
"""


def test_a_writer_that_is_killed_leaves_whole_states(tmp_path: Path, tiny_store: Path, config: ModelConfig) -> None:
    for wait_s in (0.02, 0.2):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tiny_store), str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        troubles = list[int]()
        file = StateFile(tmp_path, 1 << 22, lambda troubles=troubles: troubles.append(1))  # type: ignore[misc]
        for seed in range(8):
            if found := file.find(("user", str(seed)), BUNDLE, EVENTS, ArrayMemory(config)):
                check_same(found, state_of(config, 64, seed), 64)
        file.close()
        assert not troubles
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT count(*) FROM states").fetchone() == (8,)


def test_a_file_that_cannot_be_written_holds_nobody_up(
    file: StateFile, tmp_path: Path, config: ModelConfig, troubles: list[int]
) -> None:
    """As when the disk fails: states are not kept, and a user who must be forgotten is told so."""
    blocked = tmp_path / FILE
    file._writer.close()
    for path in list(tmp_path.iterdir()):
        path.unlink()
    blocked.mkdir()
    for _ in range(3):
        file.keep(ANN, state_of(config, 5), BUNDLE, wait_s=5)
        with pytest.raises((sqlite3.Error, OSError)):
            file.forget(ANN)
    assert len(troubles) == 6


def test_a_locked_file_is_not_damaged(file: StateFile, tmp_path: Path, config: ModelConfig, troubles: list[int]) -> None:
    state = state_of(config, 5)
    file.keep(ANN, state, BUNDLE)
    reopened(file, tmp_path, troubles)
    with sqlite3.connect(tmp_path / FILE, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # as another process that writes
        check_same(file.find(ANN, BUNDLE, EVENTS, ArrayMemory(config)), state, 5)
        file.keep(BOB, state, BUNDLE)
        second = StateFile(tmp_path, 1 << 24, lambda: None)
        second.close()
        file._writing.submit(int).result()
        other.execute("COMMIT")
    assert len(troubles) == 1, "the state that could not be written"
    check_same(file.find(ANN, BUNDLE, EVENTS, ArrayMemory(config)), state, 5)
    other.close()
