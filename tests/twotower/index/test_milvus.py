"""Milvus, in its embedded form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower.errors import EnvironmentProblem, ReleaseMismatch
from twotower.index import milvus
from twotower.index.files import open_index, write_index
from twotower.index.kinds import IndexInfo

VECTORS = np.random.default_rng(0).standard_normal((300, 9)).astype(np.float32)
INFO = IndexInfo(kind="milvus")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(milvus.WHERE, str(tmp_path / "milvus.db"))
    return tmp_path


def test_without_an_address_it_says_which_setting_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(milvus.WHERE, raising=False)
    with pytest.raises(EnvironmentProblem, match="TWOTOWER_MILVUS"):
        milvus.connect()


def test_vectors_that_were_never_inserted_are_refused(directory: Path) -> None:
    write_index(directory, VECTORS, 8, "milvus")
    with pytest.raises(ReleaseMismatch, match="Publish it again"):
        open_index(directory, VECTORS + 1, 8, INFO)


def test_what_a_killed_run_left_is_written_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(directory, VECTORS, 8, "milvus")
    client = milvus.connect()
    client.delete(milvus.collection_of(VECTORS), filter="row >= 100")
    client.flush(milvus.collection_of(VECTORS))
    assert milvus.num_rows(client, milvus.collection_of(VECTORS)) == 100
    write_index(directory, VECTORS, 8, "milvus")
    assert open_index(directory, VECTORS, 8, INFO).search(VECTORS[250:251], 1)[0].tolist() == [[250]]


def test_rows_without_their_index_are_written_again(directory: Path) -> None:
    """A run was killed after the last row and before the index."""
    write_index(directory, VECTORS, 8, "milvus")
    client, name = milvus.connect(), milvus.collection_of(VECTORS)
    client.release_collection(name)
    client.drop_index(name, "vector")
    with pytest.raises(ReleaseMismatch, match="Publish it again"):
        open_index(directory, VECTORS, 8, INFO)
    write_index(directory, VECTORS, 8, "milvus")
    assert open_index(directory, VECTORS, 8, INFO).search(VECTORS[7:8], 1)[0].tolist() == [[np.argmax(VECTORS @ VECTORS[7])]]


def test_many_queries_are_asked_a_few_at_a_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(directory, VECTORS, 8, "milvus")
    index = open_index(directory, VECTORS, 8, INFO)
    finder = index.finder
    assert isinstance(finder, milvus.MilvusFinder)
    asked: list[int] = []
    search = finder._client.search

    def noted(collection: str, data: list[Any], **how: Any) -> Any:
        asked.append(len(data))
        return search(collection, data=data, **how)

    monkeypatch.setattr(finder._client, "search", noted)
    found = index.search(VECTORS[:20], 5)[0]
    assert asked == [8, 8, 4]
    assert found.tolist() == np.argsort(-(VECTORS[:20] @ VECTORS.T), 1)[:, :5].tolist()


def test_milvus_is_never_asked_for_more_than_it_can_return(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server refuses a higher limit. What is missing is found by a scan, so that the answer is whole all the same."""
    monkeypatch.setattr(milvus, "_MOST_RESULTS", 100)
    write_index(directory, VECTORS, 8, "milvus")
    rows, _ = open_index(directory, VECTORS, 8, INFO).search(VECTORS[:1], 250)
    assert rows[0].tolist() == np.argsort(-(VECTORS @ VECTORS[0]))[:250].tolist()


def test_a_filter_too_long_to_send_is_applied_here(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus, "_MOST_DENIED", 10)
    write_index(directory, VECTORS, 8, "milvus")
    index, allowed = open_index(directory, VECTORS, 8, INFO), np.arange(300) % 2 == 0
    best = np.flatnonzero(allowed)[np.argsort(-(VECTORS @ VECTORS[0])[allowed])[:20]]
    assert index.search(VECTORS[:1], 20, allowed)[0][0].tolist() == best.tolist()
