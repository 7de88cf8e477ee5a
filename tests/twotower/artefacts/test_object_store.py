"""A bucket over real HTTP: what goes wrong there is said in one line, and what lies there is trusted in nothing."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError

from twotower.artefacts import object_store
from twotower.artefacts.manifest import MANIFEST, seal
from twotower.artefacts.object_store import ObjectStore, connect
from twotower.artefacts.store import LEFT_BEHIND_S
from twotower.errors import EnvironmentProblem, IntegrityError, StoreError

A = "release-00000000000a"


@pytest.fixture
def store(s3_store: str) -> ObjectStore:
    return connect(s3_store)


@pytest.fixture
def published(store: ObjectStore, tmp_path: Path) -> ObjectStore:
    """The store with one small release."""
    directory = tmp_path / "built"
    directory.mkdir()
    (directory / "a.bin").write_bytes(bytes(range(256)) * 100)
    seal(directory, "release", parent=None)
    store.add(directory, A)
    return store


def test_the_same_store_has_the_same_cache_and_another_has_another(s3_store: str, tmp_path: Path) -> None:
    assert connect(s3_store).local == connect(f"{s3_store}/").local
    assert connect(s3_store).local != connect(f"{s3_store}2").local
    assert connect(s3_store).local.parent == tmp_path / "cache"
    assert connect(s3_store).local.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_written_is_named(s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "file"))
    with pytest.raises(EnvironmentProblem, match="TWOTOWER_CACHE"):
        connect(s3_store)


def test_a_create_whose_answer_was_lost_is_not_taken_for_a_rival(store: ObjectStore) -> None:
    store.replace("pointers/1", b"ours")
    assert store.create("pointers/1", b"ours")
    assert not store.create("pointers/1", b"theirs")


def test_a_bucket_that_is_not_there_is_said_by_every_call(s3_store: str) -> None:
    store = connect("s3://nobody-made-this/main")
    for ask in (
        lambda: store.read("CURRENT"),
        lambda: store.create("pointers/1", b""),
        lambda: store.names("pointers"),
        store.releases,
    ):
        with pytest.raises(StoreError, match="no such bucket") as refused:
            ask()
        assert "\n" not in str(refused.value)


def test_a_service_that_does_not_answer_is_said(s3_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"no answer.*AWS_ENDPOINT_URL") as refused:
        connect(s3_store).releases()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("403 <Code>AccessDenied</Code>", "AWS_SECRET_ACCESS_KEY"),
        ("403 <Code>InvalidAccessKeyId</Code>", "not known"),
        ("403 <Code>SignatureDoesNotMatch</Code>", "secret key is wrong"),
        ("Error performing PUT http://169.254.169.254/latest/api/token: HTTP error", "AWS_ACCESS_KEY_ID"),
        ("Something new: <?xml version='1.0'?>\nDebug source", "Something new$"),
    ],
)
def test_what_the_service_refuses_is_said_in_one_line(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, answer: str, says: str
) -> None:
    def refuse(*_: object) -> None:
        raise BaseError(answer)

    monkeypatch.setattr(obstore, "list", refuse)
    with pytest.raises(StoreError, match=says) as refused:
        store.releases()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", bytes(25_600), bytes(30_000), bytes(range(256)) * 100 + b"!"])
def test_a_file_that_is_not_the_one_that_was_published_is_refused(published: ObjectStore, content: bytes) -> None:
    published.replace(f"releases/{A}/a.bin", content)
    with pytest.raises(IntegrityError, match=r"a\.bin"), published.reread(A, None):
        pass


def test_a_missing_file_is_refused(published: ObjectStore) -> None:
    published.delete(f"releases/{A}/a.bin")
    with pytest.raises(IntegrityError, match=r"a\.bin is missing"), published.reread(A, None):
        pass


def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written_there(published: ObjectStore) -> None:
    manifest = json.loads(published.read(f"releases/{A}/{MANIFEST}") or b"")
    manifest["files"]["../../outside"] = manifest["files"].pop("a.bin")
    published.replace(f"releases/{A}/{MANIFEST}", json.dumps(manifest).encode())
    with pytest.raises(IntegrityError, match="outside its directory"), published.reread(A, None):
        pass
    assert not list(published.local.rglob("outside"))
    assert not list((published.local / "releases").iterdir()), "nothing is left behind"


def test_what_was_reread_and_moved_stays(published: ObjectStore, tmp_path: Path) -> None:
    with published.reread(A, None) as path:
        shutil.move(path, tmp_path / "kept")
    assert (tmp_path / "kept" / "a.bin").stat().st_size == 25_600


def test_an_upload_that_goes_on_is_left_alone_and_one_that_ended_long_ago_is_not(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.replace(f"releases/{A}/vectors.npy", b"half")
    store.sweep()
    assert store.names(f"releases/{A}") == ["vectors.npy"]

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Later":
            return cls.fromtimestamp(datetime.now(UTC).timestamp() + LEFT_BEHIND_S + 60, UTC)

    assert Later.now() > datetime.now(UTC) + timedelta(days=6)
    monkeypatch.setattr(object_store, "datetime", Later)
    store.sweep()
    assert store.names(f"releases/{A}") == []


def test_a_large_file_is_sent_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    directory = tmp_path / "built"
    directory.mkdir()
    (directory / "a.bin").write_bytes(bytes(17 << 20))
    seal(directory, "release", parent=None)
    store.add(directory, A)
    with store.reread(A, None) as path:
        assert (path / "a.bin").stat().st_size == 17 << 20


def test_a_small_file_that_is_huge_is_not_read(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.replace("CURRENT", bytes(2000))
    monkeypatch.setattr(object_store, "_MAX_SMALL", 1000)
    with pytest.raises(IntegrityError, match="2,000 bytes"):
        store.read("CURRENT")


@pytest.mark.parametrize("url", ["s3://", "s3:///main"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(EnvironmentProblem, match="BUCKET"):
        connect(url)
