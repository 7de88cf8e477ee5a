"""Items in parts are put together, or refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from twotower.artefacts.bundle import write_table
from twotower.artefacts.parts import part_lengths, read_content, read_items, read_vectors
from twotower.artefacts.release import POPULARITY, ROWS, ReleaseInfo
from twotower.errors import ReleaseMismatch

FIRST = np.array([[1, 2, 9], [3, 4, 9], [5, 6, 9]], np.float32)  # the last column is a popularity of another night
SECOND = np.array([[30, 40, 9], [70, 80, 9]], np.float32)
INFO = ReleaseInfo(bundle_id="b", vector_space_id="s", num_items=4, vector_width=3, popularity_as_of_ms=None, num_parts=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the items a, b and c, b was replaced; d was added, and stands before the others."""
    for names, vectors, ids in zip(INFO.part_files, (FIRST, SECOND), ("abc", "bd"), strict=True):
        np.save(tmp_path / names[0], vectors)
        write_table(tmp_path / names[1], pa.table({"item_id": list(ids), "price": vectors[:, 0]}))
        np.save(tmp_path / names[2], vectors[:, 0].astype(np.uint64))
    np.save(tmp_path / ROWS, np.array([4, 0, 3, 2], np.uint32))
    np.save(tmp_path / POPULARITY, np.array([[-1], [-2], [-3], [-4]], np.float32))
    return tmp_path


def test_each_item_has_its_last_vector_and_tonights_popularity(path: Path) -> None:
    assert read_vectors(path, INFO).tolist() == [[70, 80, -1], [1, 2, -2], [30, 40, -3], [5, 6, -4]]


def test_items_and_hashes_stand_in_the_order_of_the_catalogue(path: Path) -> None:
    assert read_items(path, INFO).to_pydict() == {"item_id": ["d", "a", "b", "c"], "price": [70, 1, 30, 5]}
    assert read_content(path, INFO).tolist() == [70, 1, 30, 5]
    assert part_lengths(path, INFO) == [3, 2]


@pytest.mark.parametrize("rows", [[5, 0, 3, 2], [0, 1, 2]])
def test_rows_that_no_part_has_are_refused(path: Path, rows: list[int]) -> None:
    np.save(path / ROWS, np.array(rows, np.uint32))
    for read in (read_vectors, read_items, read_content):
        with pytest.raises(ReleaseMismatch, match=ROWS):
            read(path, INFO)


@pytest.mark.parametrize("name", ["part01.npy", POPULARITY, ROWS])
def test_a_file_of_another_release_is_refused(path: Path, name: str) -> None:
    np.save(path / name, np.zeros((2, 2), np.float32))
    with pytest.raises(ReleaseMismatch, match="Publish it again"):
        read_vectors(path, INFO)


def test_a_file_that_is_no_array_is_refused(path: Path) -> None:
    (path / "part01.npy").write_bytes(b"rotten")
    with pytest.raises(ReleaseMismatch, match=r"part01\.npy"):
        read_vectors(path, INFO)
