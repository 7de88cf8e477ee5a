import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss as faiss_module
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from service.filters import Mask
from service.index import LoadedRelease, load_release, search, similar
from twotower.bundle import read_table, write_table
from twotower.errors import IntegrityError, ReleaseMismatch, StoreError, TwoTowerError
from twotower.features import Floats
from twotower.manifest import MANIFEST, seal
from twotower.release import read_pointer, write_pointer

faiss: Any = faiss_module


def flat(vectors: Floats) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


VECTORS = np.array([[1, 0], [3, 0], [2, 0], [3, 0], [0, 9]], np.float32)
QUERY = np.array([1, 0], np.float32)


def rows(k: int, allowed: list[int] | None = None) -> list[int]:
    mask = None if allowed is None else np.isin(np.arange(5), allowed)
    return list(search(flat(VECTORS), QUERY, k, mask)[0])


def test_the_top_k_is_ordered_by_score_and_then_by_row() -> None:
    assert rows(5) == [1, 3, 2, 0, 4]
    assert rows(1) == [1]
    assert search(flat(VECTORS), QUERY, 3, None)[1].tolist() == [3, 3, 2]


def test_only_allowed_rows_are_found() -> None:
    assert rows(2, allowed=[0, 3, 4]) == [3, 0]
    assert rows(5, allowed=[0, 4]) == [0, 4]
    assert rows(5, allowed=[]) == []


def test_more_than_there_is_gives_all_there_is() -> None:
    assert rows(500) == [1, 3, 2, 0, 4]


@pytest.mark.parametrize("k", [1, 3, 40, 120, 400])
def test_of_many_equal_scores_the_lowest_rows_are_kept(k: int) -> None:
    index = flat(np.ones((400, 4), np.float32))
    assert search(index, np.ones(4, np.float32), k, None)[0].tolist() == list(range(k))


def test_search_equals_a_full_sort_under_any_mask() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (300, 6)).astype(np.float32)  # small integers: exact, and full of ties
    for k in (1, 7, 50):
        query = rng.integers(-2, 3, 6).astype(np.float32)
        allowed: Mask = rng.random(300) < 0.5
        scores = vectors @ query
        expected = sorted(np.flatnonzero(allowed).tolist(), key=lambda r: (-scores[r], r))[:k]
        assert search(flat(vectors), query, k, allowed)[0].tolist() == expected


def test_similar_items_are_ranked_by_cosine_without_the_popularity_column(release: LoadedRelease) -> None:
    embeddings = release.vectors_NV.numpy()[:, : release.towers.config.model.width].astype(np.float64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found, cosines = similar(release, embeddings[7].astype(np.float32), 20, np.ones(len(release), bool))
    np.testing.assert_allclose(cosines, np.sort(unit @ unit[7])[::-1][:20], atol=1e-5)
    assert found[0] == 7


def test_a_published_release_loads_with_its_parts_in_agreement(release: LoadedRelease, tiny_store: Path) -> None:
    assert release.id == read_pointer(tiny_store).release
    assert len(release) == release.index.ntotal == len(release.vectors_NV) == release.info.num_items
    assert all(release.item_ids[row] == item_id for item_id, row in release.rows.items())


def test_a_store_without_a_release_says_how_to_publish_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twotower embed"):
        load_release(tmp_path)


@pytest.fixture
def store_copy(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def directory(store: Path) -> Path:
    return store / "releases" / read_pointer(store).release


@pytest.mark.parametrize("name", ["index.faiss", "vectors.npy", "items.arrow", "golden.json", "contextualizer.safetensors"])
def test_a_flipped_bit_is_refused(store_copy: Path, name: str) -> None:
    file = directory(store_copy) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        load_release(store_copy)


def test_a_damaged_index_never_reaches_the_native_parser(store_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory(store_copy) / "index.faiss").write_bytes(b"IxFI" + b"\xff" * 64)
    monkeypatch.setattr(faiss, "read_index", lambda _: pytest.fail("parsed before it was verified"))
    with pytest.raises(IntegrityError):
        load_release(store_copy)


def other_width(path: Path) -> None:
    faiss.write_index(flat(np.ones((400, 7), np.float32)), str(path / "index.faiss"))


def fewer_items(path: Path) -> None:
    vectors = np.load(path / "vectors.npy")
    faiss.write_index(flat(vectors[:-1]), str(path / "index.faiss"))


def other_metric(path: Path) -> None:
    index = faiss.IndexFlatL2(33)
    index.add(np.load(path / "vectors.npy"))
    faiss.write_index(index, str(path / "index.faiss"))


def other_kind(path: Path) -> None:
    index = faiss.IndexHNSWFlat(33, 8, faiss.METRIC_INNER_PRODUCT)
    index.add(np.load(path / "vectors.npy"))
    faiss.write_index(index, str(path / "index.faiss"))


def other_vectors_indexed(path: Path) -> None:
    vectors = np.load(path / "vectors.npy")
    faiss.write_index(flat(vectors[::-1].copy()), str(path / "index.faiss"))


def other_dtype(path: Path) -> None:
    np.save(path / "vectors.npy", np.load(path / "vectors.npy").astype(np.float64))


def other_vectors(path: Path) -> None:
    """Agreeing with each other, but not what the towers make: only the golden answers can tell."""
    vectors = np.load(path / "vectors.npy")[::-1].copy()
    np.save(path / "vectors.npy", vectors)
    faiss.write_index(flat(vectors), str(path / "index.faiss"))


def shorter_table(path: Path) -> None:
    table = read_table(path / "items.arrow")
    write_table(path / "items.arrow.new", table.slice(1))
    (path / "items.arrow.new").replace(path / "items.arrow")


def repeated_item(path: Path) -> None:
    table = read_table(path / "items.arrow")
    doubled = pa.concat_tables([table.slice(0, len(table) - 1), table.slice(0, 1)])
    write_table(path / "items.arrow.new", doubled)
    (path / "items.arrow.new").replace(path / "items.arrow")


def other_golden_answer(path: Path) -> None:
    golden = json.loads((path / "golden.json").read_bytes())
    golden[2]["top_scores"][0] += 0.01
    (path / "golden.json").write_text(json.dumps(golden))


def golden_item_unknown(path: Path) -> None:
    golden = json.loads((path / "golden.json").read_bytes())
    golden[3]["top_item_ids"][0] = "never heard of"
    (path / "golden.json").write_text(json.dumps(golden))


def other_vector_space(path: Path) -> None:
    info = json.loads((path / "release.json").read_bytes())
    (path / "release.json").write_text(json.dumps(info | {"vector_space_id": "0" * 16}))


CRAFTED = [
    other_width,
    fewer_items,
    other_metric,
    other_kind,
    other_vectors_indexed,
    other_dtype,
    other_vectors,
    shorter_table,
    repeated_item,
    other_golden_answer,
    golden_item_unknown,
    other_vector_space,
]


@pytest.mark.parametrize("craft", CRAFTED, ids=lambda craft: craft.__name__)
def test_parts_that_were_not_made_for_each_other_are_refused(store_copy: Path, craft: Callable[[Path], None]) -> None:
    """The manifest is true of every file, so that nothing but the disagreement can refuse it."""
    path = directory(store_copy)
    parent = json.loads((path / MANIFEST).read_bytes())["parent"]
    (path / MANIFEST).unlink()
    craft(path)
    manifest = seal(path, "release", parent)
    path.rename(path.parent / manifest.id)
    write_pointer(store_copy, manifest.id, "test")
    with pytest.raises(ReleaseMismatch, match="Publish it again"):
        load_release(store_copy)


def test_a_manifest_that_names_another_directory_is_refused(store_copy: Path) -> None:
    file = directory(store_copy) / MANIFEST
    manifest = msgspec.json.decode(file.read_bytes())
    manifest["files"]["../../CURRENT"] = manifest["files"].pop("gates.json")
    file.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(TwoTowerError, match="outside its directory"):
        load_release(store_copy)
