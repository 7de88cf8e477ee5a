"""What a release takes of memory."""

import msgspec

from service.release.memory import needed_bytes
from tests.service.conftest import TwoReleases
from twotower.artefacts.release import ITEMS, VECTORS, read_info, read_release_manifest, release_path
from twotower.index.kinds import KINDS, IndexInfo


def test_a_release_needs_more_than_its_files(two: TwoReleases) -> None:
    path = release_path(two.store, two.first)
    files = sum(file.stat().st_size for file in path.iterdir() if file.name != "manifest.json")
    needed = needed_bytes(read_release_manifest(path), read_info(path))
    assert needed == files + sum((path / name).stat().st_size for name in (ITEMS, VECTORS)) + 300 * 200


def test_rows_that_go_to_a_gpu_are_copied_on_the_way(two: TwoReleases) -> None:
    path = release_path(two.store, two.first)
    manifest, info = read_release_manifest(path), read_info(path)
    needed = {kind: needed_bytes(manifest, msgspec.structs.replace(info, index=IndexInfo(kind=kind))) for kind in KINDS}
    assert needed["gpu_flat16"] == needed["flat"] == needed["gpu_ivfpq"] + (path / VECTORS).stat().st_size
