"""A run that was stopped goes on where it stopped, and ends with what it would have made."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import Published, build_release
from embedder_cache.catalogue.column_types import HeldColumns
from embedder_cache.catalogue.intake import REJECTED, Intake
from embedder_cache.catalogue.item_changes import Overlay
from embedder_cache.embedding.interrupted_run import Work, work_directory
from tests.embedder_cache.forked import build_and_die
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.manifest import FileEntry
from twotower.artefacts.release import GATES, read_release_manifest
from twotower.errors import DataError, EnvironmentProblem

Content = dict[str, FileEntry]
FRESH = np.array([True, True, False, True, True])
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3)


@pytest.fixture
def items(tiny_shop: Path, tmp_path: Path) -> Path:
    """The tiny shop's catalogue in four batches of 100 items."""
    pq.write_table(pq.read_table(tiny_shop / "items.parquet"), tmp_path / "items.parquet", row_group_size=100)
    return tmp_path / "items.parquet"


def content(published: Published, store: Path) -> Content:
    """Hashes of a release's files, but for what was measured when it was made."""
    return read_release_manifest(store / "releases" / published.release).files | {GATES: FileEntry(0, "")}


@pytest.fixture
def whole(tiny_bundle: Path, items: Path, tmp_path: Path) -> Content:
    """What the release holds of a run that was never stopped."""
    return content(build_release(load_bundle(tiny_bundle), items, tmp_path / "whole", None), tmp_path / "whole")


def go_on(bundle: Path, items: Path, store: Path) -> Published:
    return build_release(load_bundle(bundle), items, store, None)


@pytest.fixture
def intake() -> Intake:
    """Five items in batches of three and two."""
    ids = pa.array(["a", "b", "c", "d", "e"])
    nothing = Overlay(0, pa.table({}), pa.array([], pa.large_binary()), (), HeldColumns({}))
    places = (slice(0, 3), slice(3, 5))
    return Intake(ids, np.arange(5, dtype=np.uint64), places, np.ones(5, bool), REJECTED.empty_table(), nothing)


@pytest.fixture
def work(tmp_path: Path, intake: Intake) -> Work:
    """What a run left that wrote both batches, with two embedding dimensions and one of popularity."""
    work, vectors = Work(tmp_path / "work", width=2), tmp_path / ".staging-1" / "vectors.npy"
    vectors.parent.mkdir()
    with vectors.open("wb") as file, work.journal(vectors, intake, FRESH) as note:
        for place in intake.places:
            offset = file.tell()
            file.write(VECTORS[place].tobytes())
            note(place, offset, VECTORS[place])
    vectors.unlink()
    return work


def files(work: Work) -> tuple[Path, Path]:
    """Journal and vectors of the only run."""
    (journal,), (vectors,) = work.directory.glob("*.journal"), work.directory.glob("*.npy")
    return journal, vectors


def test_batches_are_found_as_they_were_written(work: Work, intake: Intake) -> None:
    found = work.find(intake, FRESH)
    assert sorted(found) == [0, 3]
    np.testing.assert_array_equal(found[0], VECTORS[:3, :2])
    np.testing.assert_array_equal(found[3], VECTORS[3:, :2])


def test_a_batch_is_found_only_whole_and_embedded_with_the_same_items(work: Work, intake: Intake) -> None:
    changed = replace(intake, content_N=np.array([0, 9, 2, 3, 4], np.uint64))
    assert sorted(work.find(changed, FRESH)) == [3]
    assert sorted(work.find(intake, np.array([True, True, True, True, True]))) == [3]


def test_a_batch_that_needs_no_embedding_is_not_looked_for(work: Work, intake: Intake) -> None:
    assert sorted(work.find(intake, np.array([True, True, False, False, False]))) == [0]


def test_a_journal_cut_short_anywhere_has_the_batches_before(work: Work, intake: Intake) -> None:
    journal, vectors = files(work)
    whole, data = journal.read_bytes(), vectors.read_bytes()
    for length in range(len(whole)):
        journal.write_bytes(whole[:length])
        vectors.write_bytes(data)  # a run with nothing to go on with is removed
        assert len(work.find(intake, FRESH)) == length // (len(whole) // 2)


def test_vectors_cut_short_anywhere_have_the_batches_before(work: Work, intake: Intake) -> None:
    journal, vectors = files(work)
    whole, data = journal.read_bytes(), vectors.read_bytes()
    for length in range(len(data)):
        journal.write_bytes(whole)
        vectors.write_bytes(data[:length])
        assert len(work.find(intake, FRESH)) == length // 36


def test_a_batch_with_any_bit_flipped_is_not_there(work: Work, intake: Intake) -> None:
    journal, vectors = files(work)
    whole = (journal.read_bytes(), vectors.read_bytes())
    for file in (0, 1):
        for bit in range(8 * len(whole[file])):
            flipped = [bytearray(raw) for raw in whole]
            flipped[file][bit // 8] ^= 1 << bit % 8
            journal.write_bytes(flipped[0])
            vectors.write_bytes(flipped[1])
            first_half = bit // 8 < len(whole[file]) * (1 / 2 if file == 0 else 3 / 5)
            assert sorted(work.find(intake, FRESH)) == [3 if first_half else 0]


def test_a_run_with_nothing_to_go_on_with_is_removed(work: Work, intake: Intake) -> None:
    assert not work.find(replace(intake, content_N=intake.content_N + np.uint64(7)), FRESH)
    assert not list(work.directory.iterdir())


def test_a_place_that_cannot_be_written_is_named(intake: Intake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="--store"), Work(tmp_path / "file", 2).journal(tmp_path / "v", intake, FRESH):
        pass


def test_without_hard_links_the_job_runs_all_the_same(
    tiny_bundle: Path, items: Path, whole: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert content(go_on(tiny_bundle, items, tmp_path / "store"), tmp_path / "store") == whole


def test_a_killed_run_is_gone_on_with_and_ends_with_the_same_release(
    tiny_bundle: Path, items: Path, whole: Content, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    build_and_die(tiny_bundle, items, store, after=1)
    build_and_die(tiny_bundle, items, store, after=3)  # it had gone on
    published = go_on(tiny_bundle, items, store)
    assert content(published, tmp_path / "store") == whole
    assert (published.num_items, published.num_embedded) == (400, 100)
    assert "going on with 300 items embedded by a run that was stopped" in capsys.readouterr().err
    assert not work_directory(store).exists(), "nothing is left of it"


def test_what_is_damaged_is_embedded_again(tiny_bundle: Path, items: Path, whole: Content, tmp_path: Path) -> None:
    store = tmp_path / "store"
    build_and_die(tiny_bundle, items, store, after=3)
    (vectors,) = work_directory(store).glob("*/*.npy")
    raw = bytearray(vectors.read_bytes()[:-1])
    raw[700] ^= 4
    vectors.write_bytes(raw)
    published = go_on(tiny_bundle, items, store)
    assert (content(published, tmp_path / "store"), published.num_embedded) == (whole, 300)


def test_a_batch_of_which_an_item_has_changed_is_embedded_again(tiny_bundle: Path, items: Path, tmp_path: Path) -> None:
    build_and_die(tiny_bundle, items, tmp_path / "store", after=3)
    table = pq.read_table(items)
    prices = table["price"].to_numpy().copy()
    prices[150] = 77.0
    pq.write_table(table.set_column(table.schema.get_field_index("price"), "price", [prices]), items, row_group_size=100)
    published = go_on(tiny_bundle, items, tmp_path / "store")
    assert published.num_embedded == 200
    another = go_on(tiny_bundle, items, tmp_path / "another")
    assert content(published, tmp_path / "store") == content(another, tmp_path / "another")


def test_a_run_refused_at_its_end_leaves_what_it_embedded(tiny_bundle: Path, items: Path, tmp_path: Path) -> None:
    bundle, store = load_bundle(tiny_bundle), tmp_path / "store"
    pq.write_table(pq.read_table(items).slice(0, 100), tmp_path / "few.parquet")
    build_release(bundle, tmp_path / "few.parquet", store, None)
    with pytest.raises(DataError, match="item count change"):
        build_release(bundle, items, store, None)
    published = build_release(bundle, items, store, None, forced="it grows")
    assert (published.num_items, published.num_embedded) == (400, 0)
