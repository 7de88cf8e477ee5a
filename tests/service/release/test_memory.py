"""What a release takes of memory."""

from service.release.memory import needed_bytes
from tests.service.conftest import TwoReleases
from twotower.artefacts.release import ITEMS, VECTORS, read_info, read_release_manifest, release_path


def test_a_release_needs_more_than_its_files(two: TwoReleases) -> None:
    path = release_path(two.store, two.first)
    files = sum(file.stat().st_size for file in path.iterdir() if file.name != "manifest.json")
    needed = needed_bytes(read_release_manifest(path), read_info(path))
    assert needed == files + sum((path / name).stat().st_size for name in (ITEMS, VECTORS)) + 300 * 200
