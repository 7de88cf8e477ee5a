"""Multipart forms, read while they arrive."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from service.api.errors import ApiError
from service.uploads.form import MAGIC, Form, receive_form

TYPE = b"multipart/form-data; boundary=BOUND"
FILE = MAGIC + b"some bytes\r\n--BOUN and more" + MAGIC


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    named = f'; filename="{file}"' if file else ""
    return f'--BOUND\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


BODY = (
    part("reference_time", b"2026-01-01T00:00:00Z")
    + part("keywords", b"true")
    + part("file", FILE, "my shop.parquet")
    + b"--BOUND--\r\n"
)


def received(chunks: Sequence[bytes], path: Path, max_bytes: int = 1000, **headers: str) -> Form:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)
    named = {"content-type": TYPE.decode()} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope: dict[str, Any] = {"type": "http", "headers": [(n.encode(), v.encode()) for n, v in named.items()]}

    async def receive() -> Any:
        return next(waiting)

    return asyncio.run(receive_form(Request(scope, receive), path, max_bytes, patience_s=5))


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(BODY)])
def test_the_file_and_the_fields_arrive_in_pieces_of_any_size(size: int, tmp_path: Path) -> None:
    form = received([BODY[start : start + size] for start in range(0, len(BODY), size)], tmp_path / "file")
    assert (form.file_name, form.fields) == ("my shop.parquet", {"reference_time": "2026-01-01T00:00:00Z", "keywords": "true"})
    assert (tmp_path / "file").read_bytes() == FILE


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (part("file", b"id,name\n1,tea\n" * 9, "a.csv"), "not a Parquet file"),
        (part("file", FILE, "a") + part("file", FILE, "b") + b"--BOUND--\r\n", "two files"),
        (part("keywords", b"x" * 2000) + b"--BOUND--\r\n", "more than 1024 characters"),
        (b"".join(part(f"f{n}", b"") for n in range(20)) + b"--BOUND--\r\n", "more than 16 parts"),
        (part("keywords", b"true") + b"--BOUND--\r\n", "no part named file"),
        (BODY[:-30], "cut off"),
        (b"no form at all", "cannot be read"),
        (b"", "cut off"),
    ],
)
def test_what_cannot_be_a_catalogue_is_refused(body: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        received([body], tmp_path / "file", max_bytes=100_000)
    assert refused.value.status == 400


def test_a_file_beyond_the_limit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    body = part("file", MAGIC + bytes(5000), "a") + b"--BOUND--\r\n"
    with pytest.raises(ApiError, match="at most") as refused:
        received([body[start : start + 100] for start in range(0, len(body), 100)], tmp_path / "file")
    assert refused.value.status == 413
    assert (tmp_path / "file").stat().st_size <= 1000


def test_an_announced_length_beyond_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="at most"):
        received([], tmp_path / "file", content_length=str(10 << 30))
    assert not (tmp_path / "file").exists()


def test_what_follows_the_form_counts_too(tmp_path: Path) -> None:
    body = part("file", FILE, "a") + b"--BOUND--\r\n" + bytes(1 << 20)
    with pytest.raises(ApiError) as refused:
        received([body[start : start + 10_000] for start in range(0, len(body), 10_000)], tmp_path / "file")
    assert refused.value.status == 413


def test_a_boundary_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="cannot be read") as refused:
        received([BODY], tmp_path / "file", content_type=f"multipart/form-data; boundary={'B' * 300}")
    assert refused.value.status == 400


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/mixed; boundary=x", ""])
def test_only_multipart_forms_are_read(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError) as refused:
        received([BODY], tmp_path / "file", content_type=kind)
    assert refused.value.status == 415


def test_a_client_that_stops_sending_is_not_waited_for_without_end(tmp_path: Path) -> None:
    async def receive() -> Any:
        await asyncio.sleep(60)

    request = Request({"type": "http", "headers": [(b"content-type", TYPE)]}, receive)
    with pytest.raises(ApiError) as refused:
        asyncio.run(receive_form(request, tmp_path / "file", 1000, patience_s=0.05))
    assert refused.value.status == 408


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="no room") as refused:
        received([part("file", MAGIC + bytes(1 << 17), "a")], Path("/dev/full"), max_bytes=1 << 20)
    assert refused.value.status == 507
