"""Uploads: one file in a multipart form, written to the disk while it arrives, refused once it cannot be a catalogue."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.api.errors import ApiError
from service.http.messages import declared_length
from service.uploads.file_format import NOT_PARQUET

MAGIC = b"PAR1"  # how a Parquet file begins
_MAX_FIELD_BYTES, _MAX_PARTS = 1024, 16
_AROUND_BYTES = 64 << 10  # of a form, beside its file


class Form:
    """The form of one upload while it arrives. Making it raises ApiError for a request that is no such form.

    `file_name` and `fields` are what the client sent. What stands in the file part is in the file at `path`.
    """

    def __init__(self, content_type: bytes, path: Path, max_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ApiError("unsupported_media_type", "send the catalogue as multipart/form-data, in a part named file")
        self.file_name, self.fields = "", dict[str, str]()
        self._path, self._max_bytes, self._num_parts = path, max_bytes, 0
        self._num_received, self._num_bytes = 0, 0  # of the form, and of its file
        self._file: BinaryIO | None = None
        self._header, self._headers = ["", ""], dict[str, str]()
        self._name, self._is_file, self._is_whole, self._start = "", False, False, b""
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_to_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_to_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._write,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise ApiError("bad_request", f"the form cannot be read: {error}") from error

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body; ApiError when they show that the upload cannot be used."""
        self._num_received += len(data)
        if self._num_received > self._max_bytes + _AROUND_BYTES:
            raise too_large(self._max_bytes)
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise ApiError("bad_request", f"the form cannot be read: {error}") from error

    def finish(self) -> None:
        """The body has ended; ApiError when it has no whole file."""
        if not self._is_whole:
            raise ApiError("bad_request", "the form ends before its end: the upload was cut off")
        if not self.file_name:
            raise ApiError("bad_request", "the form has no part named file with the catalogue")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise ApiError("bad_request", f"the form has more than {_MAX_PARTS} parts")
        self._headers, self._header = {}, ["", ""]

    def _add_to_header(self, place: int, data: bytes) -> None:
        self._header[place] += data.decode("latin-1")

    def _end_header(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = ["", ""]

    def _open_part(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", ""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.file_name:
                raise ApiError("bad_request", "the form has two files: send one catalogue at a time")
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace") or "catalogue"
            self._file = self._path.open("wb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            text = self.fields.get(self._name, "") + data[start:end].decode("utf-8", "replace")
            if len(text) > _MAX_FIELD_BYTES:
                raise ApiError("bad_request", f"the field {self._name[:64]!r} has more than {_MAX_FIELD_BYTES} characters")
            self.fields[self._name] = text
            return
        self._num_bytes += end - start
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        if len(self._start) < len(MAGIC):
            self._start += data[start : start + len(MAGIC) - len(self._start)]
            if not MAGIC.startswith(self._start[: len(MAGIC)]):
                raise ApiError("bad_request", NOT_PARQUET)
        assert self._file is not None, "it was opened with the part"
        self._file.write(memoryview(data)[start:end])

    def _end_part(self) -> None:
        if self._is_file:
            self.close()

    def _end(self) -> None:
        self._is_whole = True


async def receive_form(request: Request, path: Path, max_bytes: int, patience_s: float) -> Form:
    """The form of a request, with its file at `path`; ApiError when it cannot be used, or nothing comes for `patience_s`.

    The caller removes the file of a form that was refused.
    """
    headers = dict(request.scope["headers"])
    form = Form(headers.get(b"content-type", b""), path, max_bytes)
    if declared_length(headers) > max_bytes + _AROUND_BYTES:
        raise too_large(max_bytes)
    try:
        while True:
            async with asyncio.timeout(patience_s):
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ApiError("slow_body", "the connection ended before the upload did")
            if data := message.get("body", b""):
                await asyncio.to_thread(form.feed, data)  # it writes to the disk
            if not message.get("more_body", False):
                break
        form.finish()
    except TimeoutError:
        raise ApiError("slow_body", f"nothing of the upload arrived for {patience_s:g} s") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ApiError("no_room", "the disk of the server has no room for this upload") from error
    finally:
        form.close()
    return form


def too_large(max_bytes: int) -> ApiError:
    """The refusal of a file that is too large."""
    most = f"{max_bytes / 2**20:,.6g} MB"
    return ApiError("body_too_large", f"a catalogue may have at most {most}: TWOTOWER_BEHAVIORGPT_MAX_UPLOAD_MB of the server")
