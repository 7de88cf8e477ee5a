"""Jobs of uploaded catalogues: what becomes of them when all goes well, when they fail, and when something is killed."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.api.errors import ApiError
from service.uploads.folder import PROGRESS, CatalogueFolder, Job, State
from service.uploads.jobs import JobRunner, count_ids, error_in
from tests.service.uploads.files import catalogue, written
from twotower.artefacts.release import read_pointer, release_path

TABLE = catalogue(id=["a", "b"], name=["fresh tea", "dark bread"])


@pytest.fixture
def folder(tmp_path: Path) -> CatalogueFolder:
    return CatalogueFolder.open(tmp_path / "catalogues", alone=True)


def create(folder: CatalogueFolder) -> State:
    return folder.create("shop", None, written(folder.uploading(), TABLE), False, most=2)[0]


def runner_of(folder: CatalogueFolder, tiny_store: Path, bundle_id: str = "bundle-1", is_current: bool = True) -> JobRunner:
    towers = release_path(tiny_store, read_pointer(tiny_store).release), bundle_id
    return JobRunner(folder, lambda: towers, lambda: is_current)


def run_until(runner: JobRunner, happens: Callable[[], bool]) -> None:
    """Let a runner work until something has happened; then it ends as with its server."""

    async def run() -> None:
        task = asyncio.create_task(runner.run_forever())
        runner.hurry()
        async with asyncio.timeout(60):
            while not happens():
                assert not task.done(), "the runner must not end"
                await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_job_whose_process_is_killed_fails_and_says_so(folder: CatalogueFolder, tiny_store: Path) -> None:
    state = create(folder)

    def is_killed() -> bool:
        for child in Path("/proc/self/task").glob("*/children"):
            for pid in child.read_text().split():
                if b"service.uploads.job" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)
        return folder.require(state.catalog_id).pending is None

    run_until(runner_of(folder, tiny_store), is_killed)
    failed = folder.require(state.catalog_id)
    assert failed.status == "failed"
    assert "ended unexpectedly (status -9)" in str(failed.jobs[0].error)


def test_a_catalogue_that_another_process_works_on_is_left_alone(folder: CatalogueFolder, tiny_store: Path) -> None:
    state = create(folder)
    looks = iter(range(50))
    with folder.running(state.catalog_id):
        run_until(runner_of(folder, tiny_store), lambda: next(looks) == 49)
    assert folder.require(state.catalog_id).pending
    assert not (folder.path(state.catalog_id) / PROGRESS).exists()


def test_a_catalogue_is_renewed_when_another_model_is_served_and_not_again_and_again(
    folder: CatalogueFolder, tiny_store: Path
) -> None:
    state = create(folder)
    done = msgspec.structs.replace(state.jobs[0], status="ready")
    folder.change(state.catalog_id, done, release="release-1", rows="rows-1.parquet", bundle_id="bundle-1")

    def num_jobs() -> int:
        return len(folder.require(state.catalog_id).jobs)

    looks = iter(range(30))
    run_until(runner_of(folder, tiny_store, "bundle-1"), lambda: next(looks) == 29)
    assert num_jobs() == 1
    # It has no rows here, so that its job fails at once.
    run_until(runner_of(folder, tiny_store, "bundle-2"), lambda: num_jobs() == 2 and not folder.require(state.catalog_id).pending)
    renewed = folder.require(state.catalog_id)
    assert [(job.kind, job.status) for job in renewed.jobs] == [("embed", "ready"), ("renew", "failed")]
    assert (renewed.bundle_id, renewed.release) == ("bundle-2", "release-1")


def test_only_for_the_release_that_the_pointer_names_is_a_catalogue_renewed(folder: CatalogueFolder, tiny_store: Path) -> None:
    state = create(folder)
    done = msgspec.structs.replace(state.jobs[0], status="ready")
    folder.change(state.catalog_id, done, release="release-1", rows="rows-1.parquet", bundle_id="bundle-1")
    looks = iter(range(30))
    run_until(runner_of(folder, tiny_store, "bundle-2", is_current=False), lambda: next(looks) == 29)
    assert len(folder.require(state.catalog_id).jobs) == 1


def test_a_disk_that_fails_for_a_while_ends_nothing(
    folder: CatalogueFolder, tiny_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = create(folder)
    done = msgspec.structs.replace(state.jobs[0], status="ready")
    folder.change(state.catalog_id, done, release="release-1", rows="rows-1.parquet", bundle_id="bundle-1")

    def failing_once(method: Any) -> Any:
        failures = iter([True])

        def call(*arguments: Any) -> Any:
            if next(failures, False):
                raise OSError(errno.ENOSPC, "No space left on device")
            return method(*arguments)

        return call

    monkeypatch.setattr(CatalogueFolder, "renew", failing_once(CatalogueFolder.renew))
    monkeypatch.setattr(CatalogueFolder, "states", failing_once(CatalogueFolder.states))
    run_until(runner_of(folder, tiny_store, "bundle-2"), lambda: len(folder.require(state.catalog_id).jobs) == 2)
    assert "the uploaded catalogues could not be listed" in caplog.text
    assert f"the jobs of {state.catalog_id} could not be done" in caplog.text


def test_a_catalogue_that_is_deleted_before_it_is_renewed_ends_nothing(
    folder: CatalogueFolder, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, states = create(folder), CatalogueFolder.states
    done = msgspec.structs.replace(state.jobs[0], status="ready")
    folder.change(state.catalog_id, done, release="release-1", rows="rows-1.parquet", bundle_id="bundle-1")
    looked = []

    def as_before(own: CatalogueFolder) -> list[State]:
        found = states(own)
        if found:
            folder.delete(state.catalog_id)
        else:
            looked.append(True)
        return found

    monkeypatch.setattr(CatalogueFolder, "states", as_before)
    run_until(runner_of(folder, tiny_store, "bundle-2"), lambda: len(looked) > 1)


def test_the_error_of_a_job_is_the_sentence_that_it_wrote() -> None:
    assert error_in("noise\ntwotower: error: the file has no rows\n", 2) == "the file has no rows"
    assert "status -9" in error_in("twotower: error: half a", -9)
    assert "status 1" in error_in("Traceback (most recent call last):\n", 1)
    assert Job(number=1, kind="embed").status == "pending"


@pytest.mark.parametrize(
    ("ends", "error", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", ApiError, "not a Parquet file"),  # as a file that is made to do harm might
        ("os.kill(os.getpid(), signal.SIGKILL)", RuntimeError, "status -9"),
        ("raise ModuleNotFoundError('pyarrow')", RuntimeError, "No|pyarrow"),
    ],
)
def test_only_what_a_file_can_do_to_its_check_is_the_fault_of_the_file(
    ends: str, error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import os, signal; {ends}"
    monkeypatch.setattr("service.uploads.jobs.command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(error, match=says):
        asyncio.run(count_ids(tmp_path / "file"))


def test_a_file_is_counted_by_a_process_of_its_own(tmp_path: Path) -> None:
    assert asyncio.run(count_ids(written(tmp_path, TABLE))) == 2
    (tmp_path / "bad").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ApiError, match="not a Parquet file") as refused:
        asyncio.run(count_ids(tmp_path / "bad"))
    assert refused.value.status == 400
