"""The release, which the service loads: towers, vectors, index and item table that were made together.

A store holds releases and pointers (see store.py). The pointer with the highest sequence number names the release to serve.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from twotower.artefacts.bundle import TOWER_FILES, read_config
from twotower.artefacts.manifest import MANIFEST, UNREADABLE, Digest, Manifest, read_manifest, sha256, verify_directory
from twotower.artefacts.signature import Verifier
from twotower.artefacts.store import RELEASES, LocalStore, Store
from twotower.errors import ArtefactError, EnvironmentProblem, ReleaseMismatch, StoreError
from twotower.index.kinds import IndexInfo

KIND = "release"
VECTORS, ITEMS = "vectors.npy", "items.arrow"
CONTENT, REJECTED = "content.npy", "rejected.parquet"  # a hash per item; the rejected rows, if there were any
NOT_PUBLISHED = "not published: "  # begins what `twotower embed` says of a release that broke a limit
GOLDEN, GATES, INFO = "golden.json", "gates.json", "release.json"
ROWS, POPULARITY = "rows.npy", "popularity.npy"  # of a release in parts (see parts.py)
FILES = (*TOWER_FILES, GOLDEN, GATES, INFO)  # and those of the items, and of the index's kind
POINTER, POINTERS = "CURRENT", "pointers"
MAX_ROLLBACKS = 16  # that can follow one another
_POINTER_NAME = re.compile(r"\d{12}\.json")
Address = str | Path | Store


class ReleaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """release.json: what all parts of a release must agree on."""

    bundle_id: str
    vector_space_id: str
    num_items: int
    vector_width: int  # number of embedding, popularity and signal dimensions
    popularity_as_of_ms: int | None
    index: IndexInfo = IndexInfo()
    delta_sequence: int = 0  # sequence number of the last item change that it contains
    num_parts: int = 0  # of the items; 0 when they are whole
    by_content: bool = False  # the items were embedded without their ids; such vectors are not kept for a release with ids

    @property
    def part_files(self) -> list[tuple[str, str, str]]:
        """Vectors, items and content hashes of each part; of items that are whole there is one."""
        return part_names(self.num_parts) or [(VECTORS, ITEMS, CONTENT)]

    @property
    def files(self) -> list[str]:
        """The files that the release must have, apart from those that every release has."""
        names = [name for part in self.part_files for name in part]
        return [*names, *((ROWS, POPULARITY) if self.num_parts else ()), *self.index.files]


def part_names(num_parts: int) -> list[tuple[str, str, str]]:
    """The names of the files of each part: vectors, items and content hashes."""
    return [(f"part{n:02}.npy", f"part{n:02}.arrow", f"part{n:02}.content.npy") for n in range(num_parts)]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A release that servers try beside the current one: it answers a share of the users, and is judged."""

    release: str
    percent: float  # of the users
    seconds: float  # until it has passed, unless it broke a limit before


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """The release to serve. A rollback is a new pointer with a higher sequence number."""

    sequence: int
    release: str
    previous: str | None  # the release that a rollback goes to
    earlier: tuple[str, ...] = ()  # the releases that further rollbacks go to, the latest first
    reason: str
    written_at: datetime
    candidate: Candidate | None = None


class PointerAtStart(NamedTuple):
    """The newest pointer as a writer found it when it began. What it writes is refused when another writer was faster."""

    sequence: int  # the highest sequence number; 0 before any pointer
    pointer: Pointer | None  # the newest that can be read


def open_store(address: Address) -> Store:
    """The store of an address: s3://BUCKET/PREFIX, a directory, or a store itself."""
    if isinstance(address, str) and address.startswith("s3://"):
        try:
            from twotower.artefacts.object_store import connect
        except ModuleNotFoundError as error:
            raise EnvironmentProblem(f"{address} needs the package {error.name!r}: pip install 'twotower[s3]'") from error
        return connect(address)
    return LocalStore(Path(address)) if isinstance(address, str | Path) else address


def list_releases(store: Address) -> list[str]:
    """Ids of the releases in a store, oldest first."""
    return list(open_store(store).releases())


def release_path(store: Path, release: str) -> Path:
    """Directory of a release in a directory store; StoreError when the store does not have it."""
    require(LocalStore(store), release)
    return store / RELEASES / release


def require(store: Store, release: str) -> None:
    """StoreError when the store does not have the release."""
    if release not in (known := store.releases()):
        has = ", ".join(known) or "none"
        raise StoreError(f"{store} has no release {release!r} (it has: {has}). See `twotower releases list --store {store}`.")


def newest(store: Address) -> PointerAtStart:
    """The newest pointer among the numbered ones and CURRENT, so that either may be lost or damaged."""
    store = open_store(store)
    current, sequences = _decode(store.read(POINTER)), _sequences(store)
    pointer = max(filter(None, (current, next(pointers(store), None))), key=lambda pointer: pointer.sequence, default=None)
    return PointerAtStart(max(pointer.sequence if pointer else 0, *sequences[-1:], 0), pointer)


def read_pointer(store: Address) -> Pointer:
    """The current pointer; StoreError when nothing has been published."""
    store = open_store(store)
    sequence, pointer = newest(store)
    if pointer is not None and pointer.sequence == sequence:
        return pointer
    if sequence or store.read(POINTER) is not None:
        raise StoreError(f"the newest pointer of {store} cannot be read: `twotower releases activate` the release to serve")
    raise StoreError(f"{store} has no current release: publish one with `twotower embed --bundle B --items I --store {store}`")


def current_release(store: Address) -> str | None:
    """Id of the current release; None when nothing was ever published."""
    pointer = newest(store).pointer
    return pointer.release if pointer else None


def write_pointer(
    store: Address,
    release: str,
    reason: str,
    at_start: PointerAtStart | None = None,
    back: tuple[str, ...] | None = None,
    candidate: Candidate | None = None,
) -> Pointer:
    """Make `release` current: write a pointer whose number follows that of the pointer `at_start`, by default the newest one.

    `back` is where rollbacks go from then on, by default to what was current and on from there. StoreError when another pointer
    was written since, when the store does not hold the release, or when it cannot be written.
    """
    store = open_store(store)
    at_start = at_start or newest(store)
    back = _back(at_start.pointer, release) if back is None else back
    pointer = Pointer(
        sequence=at_start.sequence + 1,
        release=release,
        previous=back[0] if back else None,
        earlier=back[1:MAX_ROLLBACKS],
        reason=reason,
        written_at=datetime.now(UTC),
        candidate=candidate,
    )
    with store.exclusive():
        require(store, release)
        if newest(store).sequence != at_start.sequence or not record(store, pointer):
            raise StoreError(
                f"another run or operator published meanwhile: {store} has a newer pointer than when this began, so {release} is "
                f"not current. See `twotower releases list --store {store}`; run this again if it is still right."
            )
    # Where there is no lock, a `gc` elsewhere may have removed it meanwhile: ObjectStore.retire has the other half of this check.
    if release not in store.releases():
        if pointer.previous:
            write_pointer(store, pointer.previous, f"{release} was removed meanwhile", PointerAtStart(pointer.sequence, pointer))
        raise StoreError(f"{release} was removed from {store} meanwhile, so it is not current")
    return pointer


def record(store: Store, pointer: Pointer) -> bool:
    """Write a pointer under its own number, then as CURRENT; False when that number is taken."""
    content = msgspec.json.encode(pointer)
    if not store.create(_key(pointer.sequence), content):
        return False
    store.replace(POINTER, content)
    return True


def mend_current(store: Store) -> None:
    """Write CURRENT again where an earlier run wrote a numbered pointer and ended before it wrote CURRENT."""
    with store.exclusive():
        pointer = newest(store).pointer
        if pointer is not None and _decode(store.read(POINTER)) != pointer:
            store.replace(POINTER, msgspec.json.encode(pointer))


def pointers(store: Store) -> Iterator[Pointer]:
    """The numbered pointers that can be read, newest first."""
    return filter(None, (_decode(store.read(_key(sequence))) for sequence in reversed(_sequences(store))))


def rollbacks(pointer: Pointer) -> tuple[str, ...]:
    """The releases that rollbacks go to, one after the other."""
    return (pointer.previous, *pointer.earlier) if pointer.previous else ()


def verify_release(path: Path, signed_by: Verifier | None = None, digest: Digest = sha256) -> tuple[Manifest, ReleaseInfo]:
    """Verify the signature (if `signed_by` is given), all hashes, that no part is missing, and that all are of one vector space.

    IntegrityError, FormatError or ReleaseMismatch otherwise.
    """
    manifest = verify_directory(path, KIND, signed_by, digest)
    require_files(path, manifest, FILES)
    info = read_info(path)
    require_files(path, manifest, info.files)
    if manifest.parent != info.bundle_id:  # the id covers the files, not this line of the manifest
        raise ReleaseMismatch(
            f"{path}: {MANIFEST} says that it was made with {manifest.parent}, {INFO} with {info.bundle_id}. "
            f"Publish it again with `twotower embed`."
        )
    config = read_config(path)
    if config.vector_space_id != info.vector_space_id:
        raise ReleaseMismatch(
            f"{path}: vectors are of space {info.vector_space_id}, the towers of {config.vector_space_id}. "
            f"Publish it again with `twotower embed`."
        )
    if config.model.width + config.model.num_popularity != info.vector_width:
        raise ReleaseMismatch(f"{path}: vectors are {info.vector_width} wide, the towers say otherwise. Publish it again.")
    return manifest, info


def require_files(path: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """ReleaseMismatch unless the manifest lists all of them."""
    if missing := set(names) - set(manifest.files):
        raise ReleaseMismatch(f"{path} lacks {', '.join(sorted(missing))}. Publish it again with `twotower embed`.")


def read_info(path: Path) -> ReleaseInfo:
    """release.json of a release directory whose manifest has been read."""
    try:
        return msgspec.json.decode((path / INFO).read_bytes(), type=ReleaseInfo)
    except (FileNotFoundError, *UNREADABLE) as error:
        raise ReleaseMismatch(f"{path / INFO}: {error}. Publish it again with `twotower embed`.") from error


def read_release_manifest(path: Path) -> Manifest:
    """The manifest of a release, without hashing its files."""
    return read_manifest(path, KIND)


def is_sound(path: Path, signed_by: Verifier | None = None, digest: Digest = sha256) -> bool:
    """Whether a release directory passes `verify_release`."""
    try:
        verify_release(path, signed_by, digest)
    except ArtefactError:
        return False
    return True


def verify(store: Store, release: str, signed_by: Verifier | None, digest: Digest = sha256) -> Manifest:
    """Read and verify all of a release in the store, and return its manifest; StoreError or ArtefactError otherwise."""
    require(store, release)
    with store.reread(release, signed_by) as path:
        return verify_release(path, signed_by, digest)[0]


def activate(store: Store, release: str, signed_by: Verifier | None) -> Pointer:
    """Make a release current after verifying it."""
    at_start = newest(store)
    verify(store, release, signed_by)
    return write_pointer(store, release, "activated by hand", at_start)


def roll_back(store: Store, signed_by: Verifier | None) -> Pointer:
    """Make the release before the current one current, after verifying it. Each further call goes one step further back."""
    at_start, current = newest(store), read_pointer(store)
    known = store.releases()
    back = [release for release in rollbacks(current) if release in known]
    if not back:
        raise StoreError(f"nothing that was current before {current.release} is in {store}: there is nothing to roll back to")
    verify(store, back[0], signed_by)
    return write_pointer(store, back[0], f"rolled back from {current.release}", at_start, tuple(back[1:]))


def propose(store: Store, candidate: Candidate, signed_by: Verifier | None) -> Pointer:
    """Let servers try a release beside the current one, after verifying it. A restarted server serves the current one."""
    at_start, current = newest(store), read_pointer(store)
    if candidate.release == current.release:
        raise StoreError(f"{candidate.release} is current already: there is nothing to try")
    verify(store, candidate.release, signed_by)
    return write_pointer(store, current.release, f"{candidate.release} is tried", at_start, rollbacks(current), candidate)


def withdraw(store: Store) -> Pointer:
    """End the trial of a candidate on all servers: the current release answers everyone again."""
    at_start, current = newest(store), read_pointer(store)
    if current.candidate is None:
        raise StoreError(f"no release of {store} is being tried: there is nothing to withdraw")
    return write_pointer(store, current.release, f"{current.candidate.release} was withdrawn", at_start, rollbacks(current))


def _back(pointer: Pointer | None, release: str) -> tuple[str, ...]:
    """The releases that rollbacks go to once `release` is current after `pointer`."""
    if pointer is None:
        return ()
    return rollbacks(pointer) if pointer.release == release else (pointer.release, *rollbacks(pointer))


def _key(sequence: int) -> str:
    return f"{POINTERS}/{sequence:012}.json"


def _sequences(store: Store) -> list[int]:
    return [int(name[:12]) for name in store.names(POINTERS) if _POINTER_NAME.fullmatch(name)]


def _decode(content: bytes | None) -> Pointer | None:
    """A pointer from its file; None when the file is missing or damaged."""
    try:
        return None if content is None else msgspec.json.decode(content, type=Pointer)
    except UNREADABLE:
        return None
