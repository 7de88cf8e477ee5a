"""The bundle that made what is served is found, and its age is that of its night."""

import shutil
from datetime import UTC, date, datetime
from pathlib import Path

from twotower.artefacts.release import open_store, read_pointer
from twotower.nightly.bundles import bundle_id, bundle_of, served_bundle, trained_on


def test_the_bundle_of_the_served_release_is_found_among_those_of_the_nights(
    tiny_store: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    store = open_store(tiny_store)
    assert bundle_of(store, read_pointer(store).release) == bundle_id(tiny_bundle)
    assert served_bundle(store, tmp_path, None) is None
    assert served_bundle(store, tmp_path, tiny_bundle) == tiny_bundle
    (tmp_path / "2026-05-31" / "bundle").mkdir(parents=True)
    night = tmp_path / "2026-05-30" / "bundle"
    shutil.copytree(tiny_bundle, night)
    assert served_bundle(store, tmp_path, tiny_bundle) == night, "a folder without a bundle is passed over"


def test_a_bundle_is_of_its_night_or_of_the_day_that_it_says(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "2026-05-30" / "bundle")
    assert trained_on(tmp_path / "2026-05-30" / "bundle") == date(2026, 5, 30)
    (tmp_path / "2026-05-30" / "bundle").rename(tmp_path / "old")
    (tmp_path / "old" / "provenance.json").write_text(f'{{"created": "{datetime(2026, 1, 2, 3, tzinfo=UTC).isoformat()}"}}')
    assert trained_on(tmp_path / "old") == date(2026, 1, 2)


def test_a_release_that_cannot_be_read_has_no_bundle(tiny_store: Path) -> None:
    assert bundle_of(open_store(tiny_store), "release-000000000000") is None
