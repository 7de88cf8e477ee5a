"""Row 8: a flipped bit is found by its hash before anything is parsed; with a manifest made true again, by what follows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.service.conftest import Following, TwoReleases
from tests.service.faults.following import check_refused
from tests.service.release.test_loaded import directory, no_parser, reseal
from twotower.artefacts.manifest import MANIFEST
from twotower.artefacts.release import VECTORS, release_path, write_pointer
from twotower.artefacts.signature import SIGNATURE, load_signer, make_keys

Follow = Callable[..., Following]


def flip_all(server: Following, two: TwoReleases, times: int) -> None:
    rng, files = np.random.default_rng(0), sorted(release_path(two.store, two.second).iterdir())
    for number in range(times):
        file = files[number % len(files)]
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        write_pointer(two.store, two.second, "a test")
        assert server.look() == "refused"
        assert server.served.current.id == two.first
        file.write_bytes(content)


def test_a_flipped_bit_is_found_before_anything_is_parsed(
    two: TwoReleases, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = follow(two.store, two.first)
    for parser in ("load_towers", "read_items", "read_vectors", "open_index", "np.load"):
        monkeypatch.setattr(f"service.release.loading.{parser}", no_parser)
    flip_all(server, two, 60)
    assert server.answer()[0] == two.first


@pytest.mark.faults
def test_500_flipped_bits_are_found(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    flip_all(server, two, 500)
    failures = [server.count("twotower_release_load_failures_total", reason=r) for r in ("integrity", "format")]
    assert sum(failures) == 500


def flip_a_vector(path: Path) -> None:
    """The sign of every number of a vector: no hash knows."""
    vectors_NV = np.load(path / VECTORS)
    vectors_NV[:, 0] *= -1
    np.save(path / VECTORS, vectors_NV)


def test_changed_vectors_with_a_true_manifest_are_found_by_the_golden_queries(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    reseal(two.store, flip_a_vector)
    check_refused(server, "mismatch")


def test_a_true_manifest_that_nobody_signed_is_refused_by_who_asks_for_signatures(
    two: TwoReleases, follow: Follow, tmp_path: Path
) -> None:
    signer = load_signer(make_keys(tmp_path / "keys")[0])
    server = follow(two.store, two.first, signed_by=signer.verifier)
    check_refused(server, "integrity")
    signature = signer.sign((directory(two.store) / MANIFEST).read_bytes())
    reseal(two.store, flip_a_vector)
    (directory(two.store) / SIGNATURE).write_bytes(signature)
    check_refused(server, "integrity")
