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
from safetensors.numpy import load_file, save_file

from embedder_cache.build import build_release
from service.release.loaded import LoadedRelease, similar
from service.release.loading import load_release, open_release
from tests.twotower.index.faiss_gpu import pretend_that_the_cpu_is_a_gpu
from twotower.artefacts.bundle import load_bundle, read_table, write_table
from twotower.artefacts.manifest import MANIFEST, seal
from twotower.artefacts.release import read_info, read_pointer, verify_release, write_pointer
from twotower.errors import ArtefactError, ReleaseMismatch, StoreError, TwoTowerError
from twotower.index.files import write_index
from twotower.index.kinds import KINDS, Kind

faiss: Any = faiss_module


def test_similar_items_are_ranked_by_cosine_without_the_popularity_column(release: LoadedRelease) -> None:
    embeddings = release.vectors_NV.numpy()[:, : release.towers.config.model.width].astype(np.float64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found, cosines = similar(release, embeddings[7].astype(np.float32), 20, np.ones(len(release), bool))
    np.testing.assert_allclose(cosines, np.sort(unit @ unit[7])[::-1][:20], atol=1e-5)
    assert found[0] == 7


def test_a_published_release_loads_with_its_parts_in_agreement(release: LoadedRelease, tiny_store: Path) -> None:
    assert release.id == read_pointer(tiny_store).release
    assert len(release) == len(release.index) == len(release.vectors_NV) == release.info.num_items
    assert all(release.item_ids[row] == item_id for item_id, row in release.rows.items())


def test_a_store_without_a_release_says_how_to_publish_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twotower embed"):
        load_release(tmp_path)


@pytest.fixture
def store_copy(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def directory(store: Path) -> Path:
    return store / "releases" / read_pointer(store).release


def publish(kind: Kind, shop: Path, bundle: Path, store: Path) -> None:
    """The tiny shop with another index; recall is not asked for."""
    build_release(load_bundle(bundle), shop / "items.parquet", store, None, forced="a test", index=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_release_is_served_by_every_kind(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setenv("TWOTOWER_MILVUS", str(tmp_path / "milvus.db"))
    pretend_that_the_cpu_is_a_gpu(monkeypatch)
    monkeypatch.setattr("twotower.index.gpu.FEWEST_LINKED", 100)
    publish(kind, tiny_shop, tiny_bundle, tmp_path / "store")
    release = load_release(tmp_path / "store")
    assert release.index.kind == release.info.index.kind == kind
    assert release.index.search(release.vectors_NV[:1].numpy(), 400)[0].tolist()[0] != [-1] * 400


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One bit, anywhere."""
    damaged, bit = bytearray(data), int(rng.integers(len(data) * 8))
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def no_parser(*_: object) -> None:
    pytest.fail("parsed before it was verified")


@pytest.mark.parametrize("kind", ["int8", "ivfpq"])
@pytest.mark.parametrize(("damage", "times"), [(flip, 500), (cut, 50)])
def test_damage_to_any_file_is_refused_before_any_parser_sees_it(
    tiny_shop: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    damage: Callable[[bytes, np.random.Generator], bytes],
    times: int,
) -> None:
    publish(kind, tiny_shop, tiny_bundle, tmp_path)
    for parser in ("load_towers", "read_vectors", "read_items", "open_index", "read_golden"):
        monkeypatch.setattr(f"service.release.loading.{parser}", no_parser)
    path, rng = directory(tmp_path), np.random.default_rng(0)
    files = sorted(path.iterdir())
    for file in (files * times)[:times]:
        data = file.read_bytes()
        file.write_bytes(damage(data, rng))
        with pytest.raises(ArtefactError):
            open_release(path)
        file.write_bytes(data)
    verify_release(path)


def other_width(path: Path) -> None:
    write_index(path, np.ones((400, 7), np.float32), 6, kind_of(path))


def fewer_items(path: Path) -> None:
    write_index(path, np.load(path / "vectors.npy")[:-1], 32, kind_of(path))


def other_class(path: Path) -> None:
    kind = kind_of(path)
    write_index(path, np.load(path / "vectors.npy"), 32, "hnsw" if kind == "ivfpq" else "flat16")


def other_vectors_indexed(path: Path) -> None:
    write_index(path, np.load(path / "vectors.npy")[::-1].copy(), 32, kind_of(path))


def other_metric(path: Path) -> None:
    """Best by another measure: FAISS would answer all the same."""
    file = path / "index.faiss"
    if file.exists():
        index: Any = faiss.read_index(str(file))
        index.metric_type = faiss.METRIC_INNER_PRODUCT
        faiss.write_index(index, str(file))
    else:
        write_index(path, -np.load(path / "vectors.npy"), 32, kind_of(path))


def no_index(path: Path) -> None:
    next(path.glob("index.*")).unlink()


def no_index_at_all(path: Path) -> None:
    next(path.glob("index.*")).write_bytes(b"IxFI" + b"\xff" * 64)


def kind_of(path: Path) -> Kind:
    return read_info(path).index.kind


CRAFTED_INDEXES = [other_width, other_metric, fewer_items, other_class, other_vectors_indexed, no_index, no_index_at_all]


@pytest.mark.parametrize("kind", ["int8", "ivfpq"])
def test_an_index_that_was_not_made_for_its_vectors_is_refused(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, kind: Kind
) -> None:
    publish(kind, tiny_shop, tiny_bundle, tmp_path / "store")
    for craft in CRAFTED_INDEXES:
        store = Path(shutil.copytree(tmp_path / "store", tmp_path / craft.__name__))
        reseal(store, craft)
        with pytest.raises(ReleaseMismatch, match="Publish it again"):
            load_release(store)


def other_dtype(path: Path) -> None:
    np.save(path / "vectors.npy", np.load(path / "vectors.npy").astype(np.float64))


def other_vectors(path: Path) -> None:
    """Agreeing with each other, but not what the towers make: only the golden answers can tell."""
    np.save(path / "vectors.npy", np.load(path / "vectors.npy")[::-1].copy())


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


def golden_of_another_release(path: Path) -> None:
    """Its items are known here and its scores are those of other vectors."""
    golden = json.loads((path / "golden.json").read_bytes())
    other = np.load(path / "vectors.npy")[::-1].copy()
    ids = read_table(path / "items.arrow").column("item_id").to_pylist()
    for query in golden:
        query["top_item_ids"] = [ids[len(other) - 1 - ids.index(i)] for i in query["top_item_ids"]]
    (path / "golden.json").write_text(json.dumps(golden))


def no_golden_queries_at_all(path: Path) -> None:
    (path / "golden.json").write_text("[{}]")


def tell(path: Path, **facts: object) -> None:
    info = json.loads((path / "release.json").read_bytes())
    (path / "release.json").write_text(json.dumps(info | facts))


def other_vector_space(path: Path) -> None:
    tell(path, vector_space_id="0" * 16)


def other_vector_width(path: Path) -> None:
    tell(path, vector_width=34)


def other_number_of_items(path: Path) -> None:
    tell(path, num_items=399)


def other_bundle(path: Path) -> None:
    tell(path, bundle_id="bundle-000000000000")


def other_contextualizer(path: Path) -> None:
    """Of the same sizes, but of another training: only the golden answers can tell."""
    file = path / "contextualizer.safetensors"
    save_file({name: weight + 0.1 for name, weight in load_file(file).items()}, file)


CRAFTED = [
    other_dtype,
    other_vectors,
    shorter_table,
    repeated_item,
    other_golden_answer,
    golden_item_unknown,
    golden_of_another_release,
    no_golden_queries_at_all,
    other_vector_space,
    other_vector_width,
    other_number_of_items,
    other_bundle,
    other_contextualizer,
]


@pytest.mark.parametrize("craft", CRAFTED, ids=lambda craft: craft.__name__)
def test_parts_that_were_not_made_for_each_other_are_refused(store_copy: Path, craft: Callable[[Path], None]) -> None:
    reseal(store_copy, craft)
    with pytest.raises(ReleaseMismatch, match="Publish it again"):
        load_release(store_copy)


def reseal(store: Path, craft: Callable[[Path], None]) -> None:
    """Make the manifest true of every file, so that nothing but the disagreement can refuse the release."""
    path = directory(store)
    parent = json.loads((path / MANIFEST).read_bytes())["parent"]
    (path / MANIFEST).unlink()
    craft(path)
    manifest = seal(path, "release", parent)
    path.rename(path.parent / manifest.id)
    write_pointer(store, manifest.id, "test")


def test_a_manifest_that_names_another_directory_is_refused(store_copy: Path) -> None:
    file = directory(store_copy) / MANIFEST
    manifest = msgspec.json.decode(file.read_bytes())
    manifest["files"]["../../CURRENT"] = manifest["files"].pop("gates.json")
    file.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(TwoTowerError, match="outside its directory"):
        load_release(store_copy)
