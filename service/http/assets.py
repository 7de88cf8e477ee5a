"""Files that the server sends to browsers: read once, compressed once, and named by what they contain.

The address of a file holds the digest of its whole set, so a browser may keep it for good: another version has another address.
"""

import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from service.api.errors import ApiError
from service.http.messages import Headers

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
_COMPRESSED = frozenset({".css", ".html", ".js", ".json", ".svg"})
_FOR_GOOD, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"
BASE = b"{{base}}"  # in a page: the address of the other files of its set
# Everything comes from this server, and nothing is evaluated or framed. Pages are built from nodes, never from text with tags.
SAME_ORIGIN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "vary": "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, the same compressed (None if that saves nothing), its type and its entity tag."""

    body: bytes
    compressed: bytes | None
    media_type: str
    tag: str

    def answer(self, headers: Headers, cache: str) -> Response:
        """The file, compressed if the client takes that; 304 if the client has it."""
        named = {"cache-control": cache, "etag": self.tag, **_HEADERS}
        if self.media_type.startswith("text/html"):
            named |= {"content-security-policy": SAME_ORIGIN, "cross-origin-opener-policy": "same-origin"}
        if self.tag.encode() in headers.get(b"if-none-match", b""):
            return Response(status_code=304, headers=named)
        if self.compressed is not None and takes_gzip(headers):
            return Response(self.compressed, headers={**named, "content-encoding": "gzip"}, media_type=self.media_type)
        return Response(self.body, headers=named, media_type=self.media_type)


def asset(body: bytes, suffix: str) -> Asset:
    """A file of these bytes; KeyError for a suffix that is not served."""
    smaller = gzip.compress(body, 9, mtime=0) if suffix in _COMPRESSED else body
    return Asset(body, smaller if len(smaller) < len(body) else None, TYPES[suffix], f'"{digest([body])}"')


class AssetSet:
    """Files by their names. Pages (.html) are asked for anew each time; the others are kept by browsers for good."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.digest = digest(part for name in sorted(files) for part in (name.encode(), files[name]))
        base = self.digest.encode()
        self._assets = {name: asset(body.replace(BASE, base), Path(name).suffix) for name, body in files.items()}

    def page(self, name: str, headers: Headers) -> Response:
        """A page of the set, which the browser asks for again before it shows it again."""
        return self._assets[name].answer(headers, _ASK_AGAIN)

    def file(self, path: str, headers: Headers) -> Response:
        """The file at DIGEST/NAME; ApiError not_found for another digest: half of one version must not meet half of another."""
        version, _, name = path.partition("/")
        if version != self.digest or name not in self._assets or name.endswith(".html"):
            raise ApiError("not_found", "this page is of another version of the server: reload it")
        return self._assets[name].answer(headers, _FOR_GOOD)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file as a browser receives it."""
        return {name: len(one.compressed or one.body) for name, one in self._assets.items()}


def read_files(directory: Path) -> dict[str, bytes]:
    """The files of a directory that can be served, by name."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix in TYPES}


def digest(parts: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits that change when a part does."""
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.hexdigest()[:16]


def takes_gzip(headers: Headers) -> bool:
    """Whether the client accepts gzip."""
    for offer in headers.get(b"accept-encoding", b"").lower().split(b","):
        coding, _, quality = offer.partition(b";")
        if coding.strip() in (b"gzip", b"*"):
            return quality.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False
