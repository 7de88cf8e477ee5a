"""Row 36: a server is killed while it embeds an uploaded catalogue, and an upload is cut off."""

import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.faults.processes import serving, until
from tests.service.uploads.files import catalogue, written

pytestmark = pytest.mark.faults

NUM_ITEMS = 20_000


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"behaviorgpt_dir": tmp_path / "catalogues"}


def upload(address: str, file: Path) -> dict[str, Any]:
    answer = httpx.post(f"{address}/v1/embed-catalog", files={"file": ("shop.parquet", file.read_bytes())}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def status_of(address: str, job: str) -> str:
    return str(httpx.get(f"{address}/v1/embed-catalog/{job}").json()["status"])


def files(settings: dict[str, Any], pattern: str) -> list[Path]:
    return sorted(settings["behaviorgpt_dir"].glob(pattern))


@pytest.mark.parametrize("moment", ["upload-1", "progress.json", "items.parquet", "store/releases/.staging-*/vectors.npy"])
def test_a_job_is_done_after_the_server_was_killed_at_any_moment_of_it(
    moment: str, tiny_store: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    ids = [f"{n}" for n in range(NUM_ITEMS)]
    file = written(tmp_path, catalogue(id=ids, name=[f"organic tea {n}" for n in range(NUM_ITEMS)]))
    with serving(tiny_store, tmp_path / "h.db", "--behaviorgpt", **settings) as server:
        started = upload(server.address, file)
        until(lambda: bool(files(settings, f"cat_*/{moment}")) or status_of(server.address, started["job_id"]) == "ready", 60)
        server.end(signal.SIGKILL)
    with serving(tiny_store, tmp_path / "h.db", "--behaviorgpt", **settings) as server:
        until(lambda: status_of(server.address, started["job_id"]) == "ready", 120)
        headers = {"x-catalog-id": started["catalog_id"]}
        ranked = httpx.post(f"{server.address}/v1/vector/recommendations", json={"limit": 3}, headers=headers)
        assert len(ranked.json()["products"]["items"]) == 3
    assert [path.name for path in files(settings, "cat_*/*") if path.name.startswith(("upload", "items", "progress"))] == []


def test_an_upload_that_is_cut_off_leaves_nothing(tiny_store: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    headers = ["host: shop", "content-length: 1000000", "content-type: multipart/form-data; boundary=B"]
    head = "\r\n".join(["POST /v1/embed-catalog HTTP/1.1", *headers, "", ""])
    part = '--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nPAR1'
    with serving(tiny_store, tmp_path / "h.db", "--behaviorgpt", **settings) as server:
        port = int(server.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + part.encode() + bytes(1000))
            until(lambda: bool(files(settings, ".upload-*/file")), 10)
        until(lambda: not files(settings, ".upload-*"), 10)
        assert httpx.get(f"{server.address}/v1/catalogs").json()["catalogs"][1:] == []
