"""A store in a bucket of an S3-compatible service, through obstore. AWS_* variables give credentials and endpoint.

There are no locks. A pointer is created under its sequence number, and the service refuses a second file of that name: this is
the compare-and-swap. A release's id is a hash of its content, so two writers of one file write the same bytes. Files are
streamed into a cache on this machine, which is a directory store.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from twotower.artefacts.manifest import MANIFEST, FileEntry, read_manifest, staging
from twotower.artefacts.signature import SIGNATURE, Verifier
from twotower.artefacts.store import LEFT_BEHIND_S, RELEASE_ID, RELEASES
from twotower.errors import EnvironmentProblem, IntegrityError, StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

RETIRED = "retired.json"  # the manifest of a retired release, renamed
_MAX_SMALL = 16 << 20  # manifests and pointers are far smaller
_CODE = re.compile("<Code>([A-Za-z]+)</Code>")


def connect(url: str) -> "ObjectStore":
    """The store of s3://BUCKET/PREFIX; EnvironmentProblem for a URL without a bucket. No request is sent yet."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    options: ClientConfig = {"allow_http": endpoint.startswith("http://")}
    try:
        bucket = S3Store.from_url(url, client_options=options)
    except (BaseError, ValueError) as error:
        raise EnvironmentProblem(f"{url} is no s3://BUCKET/PREFIX ({_first_line(error)})") from error
    home = os.environ.get("TWOTOWER_CACHE") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/twotower"
    place = hashlib.sha256(f"{endpoint} {url.rstrip('/')}".encode()).hexdigest()[:12]
    cache = Path(home).expanduser() / place
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {cache}: {error.strerror}. Set TWOTOWER_CACHE to a directory.") from error
    return ObjectStore(url.rstrip("/"), bucket, cache)


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A Store in a bucket."""

    url: str
    bucket: obstore.store.ObjectStore
    local: Path

    def __str__(self) -> str:
        return self.url

    def read(self, key: str) -> bytes | None:
        """See Store."""
        with self._asking(key):
            try:
                response = obstore.get(self.bucket, key)
                if response.meta["size"] > _MAX_SMALL:
                    raise IntegrityError(f"{self}/{key} is {response.meta['size']:,} bytes: that is not what was written there")
                return bytes(response.bytes())
            except FileNotFoundError as error:
                if _code(error) in (None, "NoSuchKey"):
                    return None
                raise

    def create(self, key: str, content: bytes) -> bool:
        """See Store."""
        with self._asking(key):
            try:
                obstore.put(self.bucket, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # A request is repeated when its answer was lost, and then finds the file that it wrote itself.
                return self.read(key) == content
        return True

    def replace(self, key: str, content: bytes) -> None:
        """See Store."""
        with self._asking(key):
            obstore.put(self.bucket, key, content, use_multipart=False)

    def names(self, folder: str) -> list[str]:
        """See Store."""
        with self._asking(folder):
            return sorted(o["path"].rpartition("/")[2] for o in obstore.list_with_delimiter(self.bucket, folder)["objects"])

    def delete(self, key: str) -> None:
        """See Store."""
        with self._asking(key):
            obstore.delete(self.bucket, key)

    def releases(self) -> dict[str, float]:
        """See Store."""
        found = {name: files[MANIFEST].timestamp() for name, files in self._files().items() if MANIFEST in files}
        return dict(sorted(found.items(), key=lambda entry: (entry[1], entry[0])))

    def add(self, directory: Path, release: str) -> None:
        """See Store."""
        paths = sorted(directory.iterdir(), key=lambda path: (path.name == MANIFEST, path.name))
        for path in paths:
            # An upload has at most 10,000 parts.
            part = max(8 << 20, path.stat().st_size // 9000)
            with self._asking(key := f"{RELEASES}/{release}/{path.name}"):
                obstore.put(self.bucket, key, path, chunk_size=part)

    @contextmanager
    def reread(self, release: str, signed_by: Verifier | None) -> Iterator[Path]:
        """See Store. The files are downloaded, hashed, and removed again unless the directory was moved."""
        with staging(self.local / RELEASES) as directory:
            self._download(release, directory, signed_by)
            yield directory

    def retire(self, release: str, wanted: Callable[[], bool]) -> bool:
        """See Store.

        A publisher looks for the manifest after it wrote the pointer. This method looks for the pointer after it removed the
        manifest. One of the two therefore notices the other.
        """
        key = f"{RELEASES}/{release}/{MANIFEST}"
        manifest = self.read(key)
        if manifest is None:
            return True
        self.replace(f"{RELEASES}/{release}/{RETIRED}", manifest)
        self.delete(key)
        if wanted():
            self.replace(key, manifest)
            self.delete(f"{RELEASES}/{release}/{RETIRED}")
            return False
        return True

    def sweep(self) -> None:
        """See Store."""
        long_ago = datetime.now(UTC) - timedelta(seconds=LEFT_BEHIND_S)
        for release, files in self._files().items():
            if MANIFEST not in files and (RETIRED in files or max(files.values()) < long_ago):
                with self._asking(release):
                    obstore.delete(self.bucket, [f"{RELEASES}/{release}/{name}" for name in files])

    def exclusive(self) -> "nullcontext[None]":
        """See Store: there is no lock."""
        return nullcontext()

    def _files(self) -> dict[str, dict[str, datetime]]:
        """Names and times of what lies in each release's folder, manifest or not."""
        found: dict[str, dict[str, datetime]] = {}
        with self._asking(RELEASES):
            for page in obstore.list(self.bucket, f"{RELEASES}/"):
                for entry in page:
                    _, release, name = entry["path"].split("/", 2)
                    if RELEASE_ID.fullmatch(release):
                        found.setdefault(release, {})[name] = entry["last_modified"]
        return found

    def _download(self, release: str, directory: Path, signed_by: Verifier | None) -> None:
        for name in (SIGNATURE, MANIFEST):
            content = self.read(f"{RELEASES}/{release}/{name}")
            if content is not None:
                (directory / name).write_bytes(content)
        manifest = read_manifest(directory, "release", signed_by)  # refuses names that lead out of the directory
        for name, entry in manifest.files.items():
            self._download_file(f"{RELEASES}/{release}/{name}", directory / name, entry)

    def _download_file(self, key: str, path: Path, entry: FileEntry) -> None:
        digest, size = hashlib.sha256(), 0
        with self._asking(key), path.open("wb") as file:
            try:
                for chunk in obstore.get(self.bucket, key).stream():
                    size += len(chunk)
                    if size > entry.size:
                        break
                    digest.update(chunk)
                    file.write(chunk)
            except FileNotFoundError as error:
                raise IntegrityError(f"{self}/{key} is missing. {_MEND}") from error
        if (size, digest.hexdigest()) != (entry.size, entry.sha256):
            raise IntegrityError(f"{self}/{key} is not the file that was published (size or sha256 differs). {_MEND}")

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Turn any failure of the service into a StoreError that says what to do."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise StoreError(f"{self}: {_ADVICE.get(_code(error) or '', _unknown(key, error))}") from error


def _code(error: Exception) -> str | None:
    found = _CODE.search(str(error))
    return found.group(1) if found else None


def _unknown(key: str, error: Exception) -> str:
    text = str(error)
    if "169.254" in text or "credential" in text.lower():
        return _ADVICE["AccessDenied"]
    if "error sending request" in text or "HTTP error" in text:
        return "no answer. Is the network up, and AWS_ENDPOINT_URL (or AWS_REGION) the right one?"
    return f"{key}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(": <?xml")[0]


_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION) to those of someone who may read and write there."
)
_ADVICE = {
    "NoSuchBucket": "there is no such bucket. Make it first, or correct --store, AWS_ENDPOINT_URL or AWS_REGION.",
    "AccessDenied": f"access denied. {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the access key is not known there. {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong. {_CREDENTIALS}",
}
_MEND = "Publish it again with `twotower embed`, or go back with `twotower releases rollback`."
