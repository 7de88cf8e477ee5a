"""What a job makes of an uploaded file."""

import os
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.release.loading import open_release
from service.uploads.folder import STATE, CatalogueFolder, Job, RejectedItems, State, rows_name
from service.uploads.job import REJECTED, added, main, prepare, usable, without_broken_texts
from tests.service.uploads.files import catalogue, written
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.release import read_pointer, release_path
from twotower.errors import DataError

NAMES = [f"{look} {noun}" for look in ("fresh", "dark", "organic", "sweet") for noun in ("bread", "tea", "milk", "soap")]


@pytest.fixture
def towers(tiny_store: Path) -> Path:
    """The directory of the served release."""
    return release_path(tiny_store, read_pointer(tiny_store).release)


@pytest.fixture
def started(tmp_path: Path) -> tuple[Path, State, Job]:
    """The folder of a catalogue of sixteen items, and its first job."""
    folder = CatalogueFolder.open(tmp_path / "catalogues", alone=True)
    table = catalogue(id=[f"{n}" for n in range(len(NAMES))], name=NAMES, frequency=[*range(len(NAMES))])
    state, job = folder.create("shop", None, written(folder.uploading(), table), False, most=1)
    return folder.path(state.catalog_id), state, job


def test_rows_without_an_id_or_a_name_are_left_out_and_of_equal_ids_the_first_counts() -> None:
    table = catalogue(id=["a", None, "c", "a", "x" * 9, ""], name=["tea", "x", " ", "later", "y", "z"], brand=["b"] * 6)
    rows, rejected = usable(table, max_id_bytes=8)
    assert rows.select(["id", "name"]).to_pylist() == [{"id": "a", "name": "tea"}]
    assert (rejected.count, rejected.total) == (4, 6)
    assert [(item.id, item.reason) for item in rejected.products] == [
        ("", "id is missing, or not UTF-8"),
        ("c", "name is missing, or not UTF-8"),
        ("xxxxxxxxx", "id is longer than 8 bytes"),
        ("", "id is missing, or not UTF-8"),
    ]


def test_texts_that_are_not_utf8_are_missing() -> None:
    def broken(values: list[bytes]) -> pa.Array:
        offsets = pa.array([0, *map(len, [b"".join(values[: n + 1]) for n in range(len(values))])], pa.int32())
        return pa.StringArray.from_buffers(len(values), offsets.buffers()[1], pa.py_buffer(b"".join(values)))

    table = catalogue(id=["a", "b"], name=["x", "y"])
    table = table.set_column(2, "brand", broken([b"fine", b"\xff\xfe"]))
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), broken([b"fine", b"\xff"]))
    table = table.set_column(14, "keywords", lists)
    rows = without_broken_texts(table).select(["brand", "keywords"]).to_pylist()
    assert rows == [{"brand": "fine", "keywords": ["fine"]}, {"brand": None, "keywords": None}]


def test_added_rows_replace_those_of_their_ids() -> None:
    rows = added(catalogue(id=["a", "b"], name=["1", "2"]), catalogue(id=["c", "a"], name=["3", "4"]))
    assert rows.select(["id", "name"]).to_pylist() == [
        {"id": "b", "name": "2"},
        {"id": "c", "name": "3"},
        {"id": "a", "name": "4"},
    ]


def test_a_bundle_has_the_served_towers_and_popularity_from_the_catalogue(started: tuple[Path, State, Job], towers: Path) -> None:
    folder, state, job = started
    bundle = load_bundle(prepare(folder, state, job, towers))
    ours = bundle.popularity.to_pylist()
    assert [row["item_id"] for row in ours[:2]] == [f"{state.catalog_id}/0", f"{state.catalog_id}/1"]
    assert ours[15]["log_popularity"][0] > ours[1]["log_popularity"][0] > ours[0]["log_popularity"][0]
    assert (bundle.path / "embedder.safetensors").read_bytes() == (towers / "embedder.safetensors").read_bytes()


def test_a_job_publishes_a_release_whose_vectors_do_not_depend_on_ids(
    started: tuple[Path, State, Job], towers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda _: 0)
    folder, _, job = started
    rows = pq.read_table(folder / "upload-1")
    twice = pa.concat_tables([rows, rows.set_column(0, "id", pa.array([f"again {n}" for n in range(len(rows))]))])
    written(folder, twice, "upload-1")

    assert main([str(folder), str(job.number), str(towers)]) == 0
    release = open_release(release_path(folder / "store", read_pointer(folder / "store").release))
    width = release.towers.config.model.width
    vectors = release.vectors_NV[:, :width]
    assert len(release) == 2 * len(NAMES)
    assert (vectors[: len(NAMES)] == vectors[len(NAMES) :]).all()


def test_a_job_with_no_row_that_can_be_used_ends_with_a_sentence(
    started: tuple[Path, State, Job], towers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "nice", lambda _: 0)
    folder, _, job = started
    written(folder, catalogue(id=["a"], name=[""]), "upload-1")
    assert main([str(folder), str(job.number), str(towers)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "twotower: error: none of the 1 rows can be used: name is missing, or not UTF-8"
    )
    assert msgspec.json.decode((folder / REJECTED).read_bytes(), type=RejectedItems).count == 1


def test_a_renewal_takes_the_rows_of_the_job_before(started: tuple[Path, State, Job], towers: Path) -> None:
    folder, state, job = started
    prepare(folder, state, job, towers)
    (folder / "upload-1").unlink()
    renewed = Job(number=2, kind="renew")
    prepare(folder, msgspec.structs.replace(state, release="release-1", rows=rows_name(job)), renewed, towers)
    assert pq.read_table(folder / rows_name(renewed)) == pq.read_table(folder / rows_name(job))
    with pytest.raises(DataError, match="not a Parquet file"):
        prepare(folder, state, job, towers)
    assert (folder / STATE).exists()
