"""The uploaded catalogues on the disk: a folder for each, whose state.json says what it holds and which jobs change it.

ROOT/<catalogue>/state.json      written whole, under the lock of ROOT
ROOT/<catalogue>/upload-<n>      the file of job n, as the client sent it
ROOT/<catalogue>/rows-<n>.parquet  all rows after job n
ROOT/<catalogue>/store/          its releases, as `twotower embed` writes them
ROOT/<catalogue>/running         locked by the process whose job runs
ROOT/<catalogue>/progress.json   the step of that job; items.parquet and bundle/ are what it gives `twotower embed`

Several processes may share ROOT. Everything here blocks for the time of a few file operations.
"""

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from service.api.errors import ApiError
from twotower.artefacts.manifest import UNREADABLE, sync
from twotower.errors import EnvironmentProblem

STATE, LOCK, RUNNING = "state.json", ".lock", "running"
PROGRESS, ITEMS, BUNDLE = "progress.json", "items.parquet", "bundle"
UPLOADING, GONE = ".upload-", ".gone-"  # folders of uploads that are still coming, and of deleted catalogues
CATALOGUE_ID = re.compile(r"cat_[0-9a-f]{12}")
_JOB_ID = re.compile(r"job_([0-9a-f]{12})_(\d{1,9})")
KEPT_JOBS = 20  # of each catalogue, beside those that are still to be done
LEFT_BEHIND_S = 86_400.0  # an upload of this age was cut off by the end of its process


class RejectedItem(msgspec.Struct, frozen=True):
    """A row of an upload that is left out."""

    id: str
    reason: str


class RejectedItems(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of an upload that are left out, the first 100 of them by name."""

    count: int
    total: int
    products: list[RejectedItem]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a catalogue."""

    number: int
    kind: Literal["embed", "add", "renew", "keywords"]  # replaces all rows, adds or replaces some, or changes none
    status: Literal["pending", "ready", "failed"] = "pending"
    error: str | None = None
    rejected: RejectedItems | None = None
    with_keywords: bool = False  # the client asked for terms to make titles from


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one catalogue."""

    catalog_id: str
    name: str
    owner: str | None  # id of the API key that uploaded it; None without keys
    jobs: tuple[Job, ...]
    release: str | None = None  # that answers; None until the first job is done
    rows: str | None = None  # the file with the rows of that release
    bundle_id: str | None = None  # that the release was embedded with

    @property
    def pending(self) -> Job | None:
        """The next job to do."""
        return next((job for job in self.jobs if job.status == "pending"), None)

    @property
    def error(self) -> str | None:
        """Why the last job that failed did."""
        return next((job.error for job in reversed(self.jobs) if job.status == "failed"), None)

    @property
    def status(self) -> Literal["pending", "ready", "failed"]:
        """The state of the catalogue as a whole."""
        if self.release is not None:
            return "ready"
        return "pending" if self.pending else "failed"

    def with_job(self, job: Job) -> "State":
        """The state with a changed job, or a further one. Of the jobs that have ended the last are kept."""
        jobs = {known.number: known for known in self.jobs} | {job.number: job}
        ended = [number for number, known in jobs.items() if known.status != "pending"]
        for number in ended[:-KEPT_JOBS]:
            del jobs[number]
        return msgspec.structs.replace(self, jobs=tuple(jobs.values()))


@dataclass(frozen=True, slots=True)
class CatalogueFolder:
    """The folder of all uploaded catalogues."""

    root: Path

    @staticmethod
    def open(root: Path, alone: bool) -> "CatalogueFolder":
        """The folder, made when it is missing. What ended processes left is removed; `alone`: no other process uses it."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / LOCK).touch()
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write to {root}: {error.strerror or error}. Set TWOTOWER_BEHAVIORGPT_DIR to another directory."
            ) from error
        for left in root.iterdir():
            is_old = time.time() - left.stat().st_mtime > LEFT_BEHIND_S
            if left.name.startswith(GONE) or (left.name.startswith(UPLOADING) and (alone or is_old)):
                shutil.rmtree(left, ignore_errors=True)
        return CatalogueFolder(root)

    def path(self, catalog_id: str) -> Path:
        """The folder of one catalogue."""
        assert CATALOGUE_ID.fullmatch(catalog_id), "ids are checked before they become paths"
        return self.root / catalog_id

    def states(self) -> list[State]:
        """All catalogues, in the order of their ids."""
        names = sorted(path.name for path in self.root.iterdir() if CATALOGUE_ID.fullmatch(path.name))
        return [state for name in names if (state := self.find(name))]

    def find(self, catalog_id: str) -> State | None:
        """One catalogue; None when there is none of this id."""
        if not CATALOGUE_ID.fullmatch(catalog_id):
            return None
        try:
            return msgspec.json.decode((self.path(catalog_id) / STATE).read_bytes(), type=State)
        except (FileNotFoundError, NotADirectoryError, *UNREADABLE):
            return None

    def require(self, catalog_id: str) -> State:
        """One catalogue; ApiError not_found when there is none of this id."""
        if (state := self.find(catalog_id)) is None:
            raise ApiError("not_found", f"there is no uploaded catalogue {catalog_id!r}")
        return state

    def find_job(self, job_id: str) -> tuple[State, Job]:
        """A job and its catalogue; ApiError not_found when there is none of this id."""
        named = _JOB_ID.fullmatch(job_id)
        state = self.find(f"cat_{named[1]}") if named else None
        job = next((job for job in state.jobs if named and job.number == int(named[2])), None) if state else None
        if state is None or job is None:
            raise ApiError("not_found", f"there is no job {job_id!r}")
        return state, job

    def uploading(self) -> Path:
        """A new folder for the file of an upload."""
        path = self.root / f"{UPLOADING}{secrets.token_hex(8)}"
        path.mkdir()
        return path

    def create(self, name: str, owner: str | None, uploaded: Path, with_keywords: bool, most: int) -> tuple[State, Job]:
        """A catalogue with the rows of an uploaded file. One of the same name and owner gets these rows in place of its own.

        ApiError bad_request when there would be more than `most` catalogues.
        """
        with self._locked():
            known = next((state for state in self.states() if (state.name, state.owner) == (name, owner)), None)
            if known is None and len(self.states()) >= most:
                raise ApiError(
                    "bad_request", f"this server keeps {most} uploaded catalogues, and has that many: delete one of them first"
                )
            state = known or State(catalog_id=f"cat_{secrets.token_hex(6)}", name=name, owner=owner, jobs=())
            self.path(state.catalog_id).mkdir(exist_ok=True)
            return self._start(state, "embed", uploaded, with_keywords)

    def add(self, catalog_id: str, uploaded: Path) -> tuple[State, Job]:
        """A job that adds the rows of an uploaded file to a catalogue."""
        with self._locked():
            return self._start(self.require(catalog_id), "add", uploaded)

    def note_keywords(self, catalog_id: str) -> tuple[State, Job]:
        """A job that is done at once: titles of sections are made from the words of the catalogue itself."""
        with self._locked():
            state = self.require(catalog_id)
            job = Job(number=_next_number(state), kind="keywords", status="ready")
            self._write(state.with_job(job))
            return state, job

    def renew(self, catalog_id: str) -> None:
        """A job that embeds the rows of a catalogue again, with the model that is served now; none for one that is gone."""
        with self._locked():
            state = self.find(catalog_id)
            if state and not state.pending:
                self._write(state.with_job(Job(number=_next_number(state), kind="renew")))

    def change(self, catalog_id: str, job: Job, **fields: str | None) -> State | None:
        """Write a job that has ended, and further fields, and remove what no job needs any more.

        None when the catalogue was deleted meanwhile.
        """
        with self._locked():
            if (state := self.find(catalog_id)) is None:
                return None
            state = msgspec.structs.replace(state.with_job(job), **fields)
            self._write(state)
            _clear(self.path(catalog_id), state)
            return state

    def delete(self, catalog_id: str) -> None:
        """Delete a catalogue; ApiError not_found when there is none of this id."""
        with self._locked():
            self.require(catalog_id)
            gone = self.root / f"{GONE}{catalog_id}-{secrets.token_hex(4)}"
            self.path(catalog_id).rename(gone)
            sync(self.root)
        shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def running(self, catalog_id: str) -> Iterator[int | None]:
        """The descriptor of a lock that only one process holds for a catalogue; None when another one has it.

        A process that inherits the descriptor holds the lock too.
        """
        try:
            descriptor = os.open(self.path(catalog_id) / RUNNING, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # it was deleted
            yield None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
        finally:
            os.close(descriptor)

    def _start(
        self, state: State, kind: Literal["embed", "add"], uploaded: Path, with_keywords: bool = False
    ) -> tuple[State, Job]:
        job = Job(number=_next_number(state), kind=kind, with_keywords=with_keywords)
        uploaded.rename(self.path(state.catalog_id) / upload_name(job))
        state = state.with_job(job)
        self._write(state)
        return state, job

    def _write(self, state: State) -> None:
        path = self.path(state.catalog_id)
        new = path / f"{STATE}.new"
        new.write_bytes(msgspec.json.encode(state))
        sync(new)
        new.rename(path / STATE)
        sync(path)
        sync(self.root)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _clear(path: Path, state: State) -> None:
    """Remove the files of jobs that have ended, and what was made for `twotower embed`."""
    kept = {state.rows, *(upload_name(job) for job in state.jobs if job.status == "pending")}
    for file in path.iterdir():
        if file.name.startswith(("upload-", "rows-")) and file.name not in kept:
            file.unlink(missing_ok=True)
    shutil.rmtree(path / BUNDLE, ignore_errors=True)
    for name in (ITEMS, PROGRESS):
        (path / name).unlink(missing_ok=True)


def upload_name(job: Job) -> str:
    """The file of a job as the client sent it."""
    return f"upload-{job.number}"


def rows_name(job: Job) -> str:
    """The file with all rows after a job."""
    return f"rows-{job.number}.parquet"


def job_id_of(state: State, job: Job) -> str:
    """The id of a job."""
    return f"job_{state.catalog_id.removeprefix('cat_')}_{job.number}"


def _next_number(state: State) -> int:
    return max((job.number for job in state.jobs), default=0) + 1
