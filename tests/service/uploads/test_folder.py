"""Uploaded catalogues on the disk."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from service.api.errors import ApiError
from service.uploads.folder import KEPT_JOBS, CatalogueFolder, Job, State, job_id_of
from tests.service.uploads.files import catalogue, written
from twotower.errors import EnvironmentProblem


@pytest.fixture
def folder(tmp_path: Path) -> CatalogueFolder:
    return CatalogueFolder.open(tmp_path / "catalogues", alone=True)


def create(folder: CatalogueFolder, name: str = "shop", owner: str | None = None, most: int = 2) -> tuple[State, Job]:
    return folder.create(name, owner, written(folder.uploading(), catalogue(id=["a"], name=["x"])), False, most)


def test_an_upload_makes_a_catalogue_with_a_job_that_is_found_again(folder: CatalogueFolder) -> None:
    state, job = create(folder)
    again = CatalogueFolder.open(folder.root, alone=True)
    assert again.states() == [state]
    assert again.find_job(job_id_of(state, job)) == (state, job)
    assert (state.status, state.pending) == ("pending", job)
    assert (folder.path(state.catalog_id) / "upload-1").exists()


def test_the_same_name_of_the_same_owner_is_the_same_catalogue(folder: CatalogueFolder) -> None:
    first, _ = create(folder, owner="ann")
    again, job = create(folder, owner="ann")
    other, _ = create(folder, owner="bob")
    assert (again.catalog_id, job.number, job.kind) == (first.catalog_id, 2, "embed")
    assert other.catalog_id != first.catalog_id


def test_beyond_the_limit_a_further_catalogue_is_refused_and_a_known_one_is_not(folder: CatalogueFolder) -> None:
    create(folder, "one", most=1)
    create(folder, "one", most=1)
    with pytest.raises(ApiError, match="delete one of them first") as refused:
        create(folder, "two", most=1)
    assert refused.value.status == 400


def test_a_job_that_is_done_makes_the_catalogue_ready_and_a_failed_one_changes_nothing(folder: CatalogueFolder) -> None:
    state, job = create(folder)
    failed = folder.change(state.catalog_id, Job(number=job.number, kind="embed", status="failed", error="no"))
    assert failed
    assert failed.status == "failed"
    state, job = create(folder)
    done = folder.change(
        state.catalog_id, Job(number=job.number, kind="embed", status="ready"), release="release-1", rows="rows-2"
    )
    assert done
    assert (done.status, done.release, done.pending) == ("ready", "release-1", None)
    failed = folder.change(state.catalog_id, Job(number=3, kind="add", status="failed"))
    assert failed
    assert (failed.status, failed.release) == ("ready", "release-1")


def test_old_jobs_are_forgotten_and_those_still_to_do_never(folder: CatalogueFolder) -> None:
    state, first = create(folder)
    for number in range(2, KEPT_JOBS + 5):
        folder.change(state.catalog_id, Job(number=number, kind="add", status="ready"))
    kept = folder.require(state.catalog_id)
    assert [job.number for job in kept.jobs] == [1, *range(5, KEPT_JOBS + 5)]
    assert kept.pending == first


def test_more_uploads_than_are_kept_may_wait(folder: CatalogueFolder) -> None:
    for _ in range(KEPT_JOBS + 5):
        state, _ = create(folder)
    assert [job.number for job in state.jobs] == list(range(1, KEPT_JOBS + 6))


def test_the_end_of_a_job_removes_its_files_and_none_of_a_job_that_came_meanwhile(folder: CatalogueFolder) -> None:
    state, job = create(folder)
    path = folder.path(state.catalog_id)
    (path / "bundle").mkdir()
    for name in ("items.parquet", "progress.json", "rows-1.parquet"):
        (path / name).touch()
    _, later = create(folder)
    done = msgspec.structs.replace(job, status="ready")
    folder.change(state.catalog_id, done, release="release-1", rows="rows-1.parquet")
    assert sorted(file.name for file in path.iterdir()) == ["rows-1.parquet", "state.json", f"upload-{later.number}"]


def test_no_file_is_removed_after_others_may_add_some(folder: CatalogueFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    state, job = create(folder)
    iterdir, is_locked = Path.iterdir, []

    def seen(path: Path) -> Iterator[Path]:
        with (folder.root / ".lock").open("w") as lock, suppress(BlockingIOError):
            is_locked.append(True)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked[-1] = False
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", seen)
    folder.change(state.catalog_id, Job(number=job.number, kind="embed", status="failed"))
    assert is_locked == [True]


def test_the_reason_of_a_failed_catalogue_is_that_of_its_last_job_that_failed(folder: CatalogueFolder) -> None:
    state, job = create(folder)
    folder.change(state.catalog_id, Job(number=job.number, kind="embed", status="failed", error="no rows"))
    state, _ = folder.note_keywords(state.catalog_id)
    assert folder.require(state.catalog_id).error == "no rows"


def test_a_catalogue_that_was_deleted_is_not_renewed(folder: CatalogueFolder) -> None:
    state, _ = create(folder)
    folder.delete(state.catalog_id)
    folder.renew(state.catalog_id)
    assert folder.states() == []


def test_a_disk_that_fails_is_not_taken_for_a_catalogue_that_is_gone(
    folder: CatalogueFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _ = create(folder)

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Input/output error"):
        folder.find(state.catalog_id)


def test_a_deleted_catalogue_leaves_nothing(folder: CatalogueFolder) -> None:
    state, job = create(folder)
    folder.delete(state.catalog_id)
    assert [path.name for path in folder.root.iterdir() if path.is_dir()] == [path.name for path in folder.root.glob(".upload-*")]
    assert folder.change(state.catalog_id, job) is None
    with pytest.raises(ApiError, match="no uploaded catalogue"):
        folder.delete(state.catalog_id)


@pytest.mark.parametrize("catalog_id", ["../etc", "cat_", "cat_00000000000g", "cat_000000000000/..", "", "cat_000000000000"])
def test_an_id_that_is_none_of_ours_is_not_found(catalog_id: str, folder: CatalogueFolder) -> None:
    assert folder.find(catalog_id) is None
    with pytest.raises(ApiError, match="there is no job"):
        folder.find_job(f"job_{catalog_id}")


def test_a_state_that_cannot_be_read_is_no_catalogue(folder: CatalogueFolder) -> None:
    state, _ = create(folder)
    (folder.path(state.catalog_id) / "state.json").write_bytes(b'{"catalog_id": ')
    assert folder.states() == []


def test_only_one_process_at_a_time_does_the_job_of_a_catalogue(folder: CatalogueFolder) -> None:
    state, _ = create(folder)
    with folder.running(state.catalog_id) as first, folder.running(state.catalog_id) as second:
        assert first is not None
        assert second is None
    with folder.running(state.catalog_id) as again:
        assert again is not None
    with folder.running("cat_000000000000") as of_none:
        assert of_none is None


def test_what_ended_processes_left_is_removed_at_the_start(folder: CatalogueFolder) -> None:
    fresh, old, gone = folder.uploading(), folder.uploading(), folder.root / ".gone-cat_0-1"
    gone.mkdir()
    os.utime(old, (time.time() - 10**6, time.time() - 10**6))
    CatalogueFolder.open(folder.root, alone=False)
    assert [path.exists() for path in (fresh, old, gone)] == [True, False, False]
    CatalogueFolder.open(folder.root, alone=True)
    assert not fresh.exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="TWOTOWER_BEHAVIORGPT_DIR"):
        CatalogueFolder.open(tmp_path / "file" / "catalogues", alone=True)
