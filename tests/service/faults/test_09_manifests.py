"""Row 9: a manifest that is half written, damaged, of the future or leads elsewhere is refused, and nothing else is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.service.conftest import Following, TwoReleases
from tests.service.faults.following import check_refused
from twotower.artefacts.manifest import MANIFEST
from twotower.artefacts.release import VECTORS, release_path, write_pointer

Follow = Callable[..., Following]


def rename_file(manifest: dict[str, Any], name: str) -> None:
    manifest["files"][name] = manifest["files"].pop(VECTORS)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "newer format": lambda manifest: manifest.update(format_version=2),
    "another kind": lambda manifest: manifest.update(kind="bundle"),
    "another id": lambda manifest: manifest.update(id="release-000000000000"),
    "unknown field": lambda manifest: manifest.update(also="this"),
    "no files": lambda manifest: manifest.update(files={}),
    "parent directory": lambda manifest: rename_file(manifest, "../vectors.npy"),
    "absolute path": lambda manifest: rename_file(manifest, "/etc/passwd"),
    "its own name": lambda manifest: rename_file(manifest, MANIFEST),
}


def rewrite(two: TwoReleases, content: bytes) -> None:
    (release_path(two.store, two.second) / MANIFEST).write_bytes(content)
    write_pointer(two.store, two.second, "a test")


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_that_says_something_else_is_refused(two: TwoReleases, follow: Follow, change: str) -> None:
    server = follow(two.store, two.first)
    manifest = json.loads((release_path(two.store, two.second) / MANIFEST).read_bytes())
    CHANGES[change](manifest)
    rewrite(two, msgspec.json.encode(manifest))
    check_refused(server, "format" if change in ("newer format", "another kind") else "integrity")


def test_half_a_manifest_is_refused(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    whole = (release_path(two.store, two.second) / MANIFEST).read_bytes()
    for length in range(0, len(whole) - 2, len(whole) // 20):
        rewrite(two, whole[:length])
        assert server.look() == "refused"
    rewrite(two, whole)
    assert server.look() == "swapped"


NO_MANIFEST = st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode)


def test_no_bytes_in_its_place_are_taken_for_a_manifest(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)

    @given(NO_MANIFEST)
    @settings(max_examples=40, deadline=None)
    def check(content: bytes) -> None:
        rewrite(two, content)
        assert server.look() == "refused"
        assert server.served.current.id == two.first

    check()


def test_a_link_out_of_the_release_is_refused_though_it_leads_to_the_very_bytes(
    two: TwoReleases, follow: Follow, tmp_path: Path
) -> None:
    server = follow(two.store, two.first)
    file = release_path(two.store, two.second) / VECTORS
    file.rename(tmp_path / VECTORS)
    file.symlink_to(tmp_path / VECTORS)
    write_pointer(two.store, two.second, "a test")
    check_refused(server, "integrity")


def test_a_release_that_is_a_link_is_none(two: TwoReleases, follow: Follow, tmp_path: Path) -> None:
    server = follow(two.store, two.first)
    path = release_path(two.store, two.second)
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert server.look() == "unavailable"
    assert server.served.current.id == two.first
