"""Does the jobs of uploaded catalogues, one at a time, each in a process of its own.

What is to be done stands on the disk. So a job outlives the server: after a restart it is done again from its beginning, and what
was embedded is not embedded again. Of several servers that share a folder, the one that holds a catalogue's lock does its job.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from service.api.errors import ApiError
from service.uploads.file_format import NOT_PARQUET
from service.uploads.folder import PROGRESS, CatalogueFolder, Job, RejectedItems, State, job_id_of, rows_name
from service.uploads.job import REJECTED
from twotower.artefacts.manifest import UNREADABLE
from twotower.progress import FILE

LOG = "job.log"
LOOK_EVERY_S = 1.0
CHECK_TIMEOUT_S = 120.0
# How a file can end its reader.
_CRASHES: frozenset[int] = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
_log = logging.getLogger("twotower.behaviorgpt")


class Progress(msgspec.Struct, frozen=True):
    """The running step of a job, as twotower.progress writes it."""

    step: str
    done: float
    total: float | None


class _Published(msgspec.Struct, frozen=True):
    """What `twotower embed --json` prints."""

    release: str


class JobRunner:
    """Does the jobs of one folder. `towers` is the directory of the release whose towers embed, and the id of its bundle.

    `is_current` says whether the store's pointer names that release. Only then are catalogues of another model embedded anew,
    since two servers of one folder that serve different models would do that in turn.
    """

    def __init__(self, folder: CatalogueFolder, towers: Callable[[], tuple[Path, str]], is_current: Callable[[], bool]) -> None:
        self._folder, self._towers, self._is_current = folder, towers, is_current
        self._process: asyncio.subprocess.Process | None = None
        self._running: str | None = None  # the catalogue whose job runs here
        self._news = asyncio.Event()

    def hurry(self) -> None:
        """Look for a new job now."""
        self._news.set()

    async def run_forever(self) -> None:
        """Do jobs as they come; ends when cancelled. A job that runs then is done after the next start."""
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_EVERY_S)
                self._news.clear()
                with _going_on("the uploaded catalogues could not be listed"):
                    for state in await asyncio.to_thread(self._folder.states):
                        with _going_on(f"the jobs of {state.catalog_id} could not be done"):
                            await self._look_after(state)
        finally:
            self._stop()

    def stop(self, catalog_id: str) -> None:
        """End the job of a catalogue that was deleted, if it runs here."""
        if self._running == catalog_id:
            self._stop()

    def progress(self, catalog_id: str) -> Progress | None:
        """The running step of the job of a catalogue; None when none has begun."""
        try:
            return msgspec.json.decode((self._folder.path(catalog_id) / PROGRESS).read_bytes(), type=Progress)
        except (OSError, *UNREADABLE):
            return None

    async def _look_after(self, state: State) -> None:
        is_idle = state.release and not state.pending
        if is_idle and state.bundle_id != self._towers()[1] and self._is_current():
            await asyncio.to_thread(self._folder.renew, state.catalog_id)
            await self._try(state.catalog_id)
        elif state.pending:
            await self._try(state.catalog_id)

    async def _try(self, catalog_id: str) -> None:
        """Do the next job of a catalogue, unless another process does it."""
        with self._folder.running(catalog_id) as lock:
            state = self._folder.find(catalog_id)
            if lock is None or state is None or (job := state.pending) is None:
                return
            self._running = catalog_id
            try:
                await self._do(state, job, lock)
            except Exception as error:  # whatever it is, the client has to hear that its job has failed
                _log.exception("job %s failed", job_id_of(state, job))
                await self._fail(
                    catalog_id, job, f"the server failed: {type(error).__name__}; its log has more", self._towers()[1]
                )
            finally:
                self._running = None

    async def _do(self, state: State, job: Job, lock: int) -> None:
        path, (towers, bundle_id) = self._folder.path(state.catalog_id), self._towers()
        (path / PROGRESS).unlink(missing_ok=True)
        code, output, error = await self._call([path, job.number, towers], path, lock)
        if not path.exists():  # it was deleted; what the process wrote since is nobody's
            return
        if code:
            _log.warning("job %s failed: %s", job_id_of(state, job), error)
            await self._fail(state.catalog_id, job, error, bundle_id)
            return
        published = msgspec.json.decode(output, type=_Published)
        rejected = msgspec.json.decode((path / REJECTED).read_bytes(), type=RejectedItems)
        done = msgspec.structs.replace(job, status="ready", rejected=rejected)
        fields = {"release": published.release, "rows": rows_name(job), "bundle_id": bundle_id}
        await asyncio.to_thread(lambda: self._folder.change(state.catalog_id, done, **fields))

    async def _fail(self, catalog_id: str, job: Job, error: str, bundle_id: str | None = None) -> None:
        failed = msgspec.structs.replace(job, status="failed", error=error)
        # A catalogue that cannot be renewed for a bundle counts as renewed: it would fail again and again.
        fields = {"bundle_id": bundle_id} if job.kind == "renew" and bundle_id else {}
        await asyncio.to_thread(lambda: self._folder.change(catalog_id, failed, **fields))

    async def _call(self, arguments: list[object], path: Path, lock: int) -> tuple[int, bytes, str]:
        """Run a job's process. Returns the exit status, what it printed, and its error in one line.

        The process holds the lock too: when the server is killed, no second one begins before it has ended.
        """
        with (path / LOG).open("wb") as log:
            process = self._process = await asyncio.create_subprocess_exec(
                *command("job", arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                pass_fds=(lock,),
                env=environment() | {FILE: str(path / PROGRESS)},
            )
            try:
                output, _ = await process.communicate()
            finally:
                self._stop()
                code = await process.wait()
        text = (path / LOG).read_text(errors="replace") if code and path.exists() else ""
        return code, output, error_in(text, code)

    def _stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)  # whatever it was doing can be done again
        self._process = None


async def count_ids(file: Path) -> int:
    """The number of ids of an uploaded catalogue, read by a process of its own; ApiError bad_request when it is none.

    RuntimeError when the process ends in a way that no file can be blamed for.
    """
    process = await asyncio.create_subprocess_exec(
        *command("file_format", [file]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise ApiError("bad_request", f"the file could not be read within {CHECK_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code, told = process.returncode or 0, errors.decode(errors="replace")
    if code == 2:
        raise ApiError("bad_request", error_in(told, 2))
    if -code in _CRASHES:
        _log.warning("the check of an upload was ended by signal %s: %s", -code, told)
        raise ApiError("bad_request", NOT_PARQUET)
    if code:
        raise RuntimeError(f"the check of an upload ended with status {code}: {told}")
    return int(output)


def command(module: str, arguments: list[object]) -> list[str]:
    """The command line of a module of this room."""
    # The process must run the same code as we do, and no module that happens to be in its current directory.
    return [sys.executable, "-P", "-m", f"service.uploads.{module}", *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of such a process: ours, and the places of our modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(place or str(Path.cwd()) for place in sys.path)}


def error_in(text: str, code: int) -> str:
    """The error of a process, from what it wrote; a general one for a process that was not able to say what was wrong."""
    lines = [line.partition("error: ")[2] for line in text.splitlines() if line.startswith("twotower: error: ")]
    return lines[-1] if lines and code == 2 else f"the job ended unexpectedly (status {code}); {LOG} of the catalogue has more"


@contextmanager
def _going_on(problem: str) -> Iterator[None]:
    """Log what fails, and go on: the task that does jobs must not end, since nothing would do them any more."""
    try:
        yield
    except Exception:
        _log.exception(problem)
