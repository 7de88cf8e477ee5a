"""What is not published, and what an operator may publish all the same."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from embedder_cache.build import build_release
from embedder_cache.command import main
from embedder_cache.gates import Gate, Limits, load_limits, no_worse, quality_gates, refuse_nonsense, unchanged_gate
from embedder_cache.probe import Search, read_served
from tests.training.conftest import LEARNS
from training.run import run
from twotower.bundle import Bundle, load_bundle, save_bundle
from twotower.errors import DataError
from twotower.features import Floats, Ints
from twotower.golden import GoldenQuery
from twotower.model.contextualizer import Contextualizer
from twotower.release import GATES, GOLDEN, VECTORS, list_releases, read_pointer, release_path
from twotower.schema import load_schema


def test_vectors_that_would_serve_nonsense_are_not_published() -> None:
    vectors = np.ones((4, 3), np.float32)
    refuse_nonsense(vectors, 2, [])
    broken = GoldenQuery(item_ids=[], times_ms=[], now_ms=0, top_item_ids=["a"], top_scores=[float("nan")])
    with pytest.raises(DataError, match="scores are not finite"):
        refuse_nonsense(vectors, 2, [broken])
    vectors[1, 0] = np.nan
    vectors[2, :2] = 0  # its popularity is still there
    with pytest.raises(DataError, match="1 item vectors are not finite and 1 are zero"):
        refuse_nonsense(vectors, 2, [])


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def halved(tiny_shop: Path, tmp_path: Path) -> Path:
    """A catalogue that lost every other item overnight."""
    items = pq.read_table(tiny_shop / "items.parquet")
    path = tmp_path / "half.parquet"
    pq.write_table(items.take(np.arange(0, len(items), 2)), path)
    return path


def test_a_catalogue_that_lost_half_its_items_is_not_published(
    store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    before = (read_pointer(store), list_releases(store))
    with pytest.raises(DataError, match=r"recent coverage is .*; item count change is 50.0%, must be at most 10.0%"):
        build_release(load_bundle(tiny_bundle), halved(tiny_shop, tmp_path), store, tiny_shop / "events.parquet")
    assert (read_pointer(store), list_releases(store)) == before


def test_force_publishes_it_and_the_reason_stays_with_the_release(
    store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    said = ["--force", "--reason", "the summer range is gone"]
    data = ["--items", halved(tiny_shop, tmp_path), "--events", tiny_shop / "events.parquet"]
    assert main([str(a) for a in ["--bundle", tiny_bundle, "--store", store, *data, *said]]) == 0
    gates = json.loads((release_path(store, read_pointer(store).release) / GATES).read_bytes())
    assert (gates["passed"], gates["forced"], gates["items"]) == (False, "the summer range is gone", 200)
    passed = {g["name"]: g["passed"] for g in gates["gates"]}
    assert (passed["recent_coverage"], passed["item_count_change"], passed["golden_overlap"]) == (False, False, True)


@pytest.mark.parametrize("alone", [["--force"], ["--reason", "because"]])
def test_force_wants_a_reason(alone: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", "b", "--items", "i", "--store", "s", *alone])
    assert "go together" in capsys.readouterr().err


def test_limits_come_from_a_file(store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text("item_count_change = 0.5\nrecent_coverage = 0.3\nholdout = 0.5\n")
    limits = load_limits(tmp_path / "gates.toml")
    bundle, events = load_bundle(tiny_bundle), tiny_shop / "events.parquet"
    assert build_release(bundle, halved(tiny_shop, tmp_path), store, events, limits=limits).num_items == 200


@pytest.mark.parametrize("text", ["item_count_change = 2.0", "typo = 0.1", "item_count_change = 'a'", "= 3", "max_bytes = 0"])
def test_limits_that_mean_nothing_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(DataError, match=r"gates\.toml"):
        load_limits(tmp_path / "gates.toml")


def test_a_release_that_answers_all_differently_is_not_published(
    store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    golden = release_path(store, read_pointer(store).release) / GOLDEN
    queries = msgspec.json.decode(golden.read_bytes(), type=list[GoldenQuery])
    last = pq.read_table(tiny_shop / "items.parquet")["item_id"].to_pylist()[-10:]  # nobody's favourites
    golden.write_bytes(msgspec.json.encode([msgspec.structs.replace(q, top_item_ids=last) for q in queries]))
    with pytest.raises(DataError, match=r"golden overlap is \d\.\d%, must be at least 10\.0%"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, None)


def test_a_served_release_that_cannot_be_read_stops_nobody(
    store: Path, tiny_shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release_path(store, read_pointer(store).release) / GOLDEN).unlink()
    assert build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, None).changed
    assert "nothing is compared with it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of one recipe that differ in nothing but the seed, trained just long enough to beat popularity."""
    first, second = (msgspec.structs.replace(s, max_steps=n) for s, n in zip(LEARNS.stages, (20, 10), strict=True))
    directory, schema = tmp_path_factory.mktemp("trained"), load_schema(tiny_shop / "schema.toml")
    for seed in (0, 1):
        config = msgspec.structs.replace(LEARNS, seed=seed, stages=(first, second))
        run(config, tiny_shop / "events.parquet", tiny_shop / "items.parquet", schema, directory / f"bundle-{seed}")
    return directory / "bundle-0", directory / "bundle-1"


@pytest.fixture(scope="module")
def good_store(trained: tuple[Path, Path], tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It serves the first of them."""
    store = tmp_path_factory.mktemp("good")
    build_release(load_bundle(trained[0]), tiny_shop / "items.parquet", store, tiny_shop / "events.parquet")
    return store


def spoiled(bundle: Path, path: Path, spoil: Callable[[Contextualizer, int], None]) -> Bundle:
    """The bundle with other weights in its contextualizer, sealed as if it had been trained so."""
    was = load_bundle(bundle)
    towers, config = was.towers, was.towers.config
    with torch.no_grad():
        spoil(towers.contextualizer, config.model.width)
    half_lives = config.popularity_half_lives_days
    weights = (towers.embedder, towers.contextualizer)
    save_bundle(path, *weights, config.model, half_lives, towers.schema, was.popularity, was.metrics, {})
    return load_bundle(path)


def shuffle_weights(contextualizer: Contextualizer, width: int) -> None:
    torch.manual_seed(0)
    for weights in contextualizer.parameters():
        weights.copy_(weights.flatten()[torch.randperm(weights.numel())].view_as(weights))


def invert_popularity(contextualizer: Contextualizer, width: int) -> None:
    contextualizer.query_out.weight[width:].neg_()
    contextualizer.query_out.bias[width:].neg_()


def forget_users(contextualizer: Contextualizer, width: int) -> None:
    """What is left is one list for everyone."""
    for layer in (contextualizer.query_out, contextualizer.repeat_mlp[-1], contextualizer.repeat_query):
        assert isinstance(layer, torch.nn.Linear)
        layer.weight.zero_()
        layer.bias.zero_()
    contextualizer.query_out.bias[width] = 1.0


def test_an_equal_retrain_is_published(good_store: Path, trained: tuple[Path, Path], tiny_shop: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(good_store, tmp_path / "store"))
    for bundle in (trained[1], trained[0]):  # whichever seed drew the better of the two
        published = build_release(load_bundle(bundle), tiny_shop / "items.parquet", store, tiny_shop / "events.parquet")
        assert published.changed
    gates = {gate.name: gate for gate in published.gates}
    assert list(gates) == [
        "rejected",
        "recent_coverage",
        "item_count_change",
        "golden_overlap",
        "bytes",
        "holdout_recall10_over_popularity",
        "holdout_ndcg10_over_popularity",
        "holdout_recall10",
        "holdout_ndcg10",
        "overlap20",
        "coverage20",
        "recall100",
        "search_p99_ms",
    ]
    assert gates["holdout_recall10"].value > 1.5 * (gates["holdout_recall10_over_popularity"].base or 1.0)
    assert gates["recall100"].value == 1.0, "the index is exact"


@pytest.mark.parametrize("spoil", [shuffle_weights, invert_popularity, forget_users])
def test_a_spoiled_contextualizer_is_not_published(
    spoil: Callable[[Contextualizer, int], None],
    good_store: Path,
    trained: tuple[Path, Path],
    tiny_shop: Path,
    tmp_path: Path,
) -> None:
    """Everything but its answers is in order: hashes, shapes, finite numbers, golden queries."""
    store = Path(shutil.copytree(good_store, tmp_path / "store"))
    bundle = spoiled(trained[0], tmp_path / "bundle", spoil)
    with pytest.raises(DataError, match=r"holdout ndcg10 is .*, must be at least .* \(compared with"):
        build_release(bundle, tiny_shop / "items.parquet", store, tiny_shop / "events.parquet", limits=Limits(golden_overlap=0))


def test_the_first_release_must_not_be_worse_than_popularity(trained: tuple[Path, Path], tiny_shop: Path, tmp_path: Path) -> None:
    bundle = spoiled(trained[0], tmp_path / "bundle", shuffle_weights)
    with pytest.raises(DataError, match=r"holdout recall10 over popularity is .*; holdout ndcg10 over popularity is"):
        build_release(bundle, tiny_shop / "items.parquet", tmp_path / "store", tiny_shop / "events.parquet")


def test_one_list_for_everyone_is_no_recommender(
    good_store: Path, trained: tuple[Path, Path], tiny_shop: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(good_store, tmp_path / "store"))
    bundle, limits = spoiled(trained[0], tmp_path / "bundle", forget_users), Limits(holdout=0, golden_overlap=0)
    with pytest.raises(DataError, match=r"coverage20 is \d\.\d%, must be at least"):
        build_release(bundle, tiny_shop / "items.parquet", store, tiny_shop / "events.parquet", limits=limits)


def test_one_bundle_does_not_answer_differently_overnight(
    good_store: Path, trained: tuple[Path, Path], tiny_shop: Path, tmp_path: Path
) -> None:
    """Answers so different are another bundle's, and then allowed; here the towers went wrong on the way."""
    other = spoiled(trained[0], tmp_path / "bundle", forget_users)
    same = replace(other, manifest=load_bundle(trained[0]).manifest)
    found, refused = (gates_of(b, good_store, tiny_shop, first_rows, Limits())["overlap20"] for b in (other, same))
    assert (found.at_least, found.passed) == (0.10, True)
    assert (refused.at_least, refused.passed) == (0.80, False)


def test_a_served_release_that_is_damaged_leaves_popularity_to_compare_with(
    good_store: Path, trained: tuple[Path, Path], tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(good_store, tmp_path / "store"))
    (release_path(store, read_pointer(store).release) / VECTORS).write_bytes(b"rotten")
    published = build_release(load_bundle(trained[1]), tiny_shop / "items.parquet", store, tiny_shop / "events.parquet")
    assert published.changed
    assert "compared with popularity alone" in capsys.readouterr().err
    assert "holdout_recall10" not in {gate.name for gate in published.gates}


def first_rows(queries_QV: Floats, k: int) -> Ints:
    """An index that finds the same for everyone."""
    return np.tile(np.arange(k), (len(queries_QV), 1))


def gates_of(bundle: Bundle, store: Path, tiny_shop: Path, search: Search, limits: Limits) -> dict[str, Gate]:
    """What real requests say of the served vectors under another bundle or index."""
    release = read_served(path := release_path(store, read_pointer(store).release))
    until_ms, vectors = release.info.popularity_as_of_ms, release.vectors_NV.numpy()
    assert until_ms is not None
    events = tiny_shop / "events.parquet"
    gates = quality_gates(events, until_ms, bundle, release.item_ids, vectors, search, path, limits)
    return {gate.name: gate for gate in gates}


def test_an_index_that_loses_items_or_is_slow_is_not_published(
    good_store: Path, trained: tuple[Path, Path], tiny_shop: Path
) -> None:
    vectors = read_served(release_path(good_store, read_pointer(good_store).release)).vectors_NV.numpy()

    def search(queries_QV: Floats, k: int, lost: int = 2) -> Ints:
        time.sleep(0.01)
        return np.argsort(-queries_QV @ vectors.T, axis=1, kind="stable")[:, : k - lost]

    gates = gates_of(load_bundle(trained[0]), good_store, tiny_shop, search, Limits())
    assert gates["recall100"].value == pytest.approx(0.98)
    assert (gates["recall100"].at_least, gates["recall100"].passed) == (0.99, False), "the served index finds all"
    assert gates["search_p99_ms"].value > 10
    assert (gates["search_p99_ms"].at_most, gates["search_p99_ms"].passed) == (5.0, False)
    assert str(gates["search_p99_ms"]).endswith(" ms)")


def test_a_first_index_is_held_to_the_limit(tiny_shop: Path, trained: tuple[Path, Path], good_store: Path) -> None:
    release = read_served(release_path(good_store, read_pointer(good_store).release))
    assert release.info.popularity_as_of_ms is not None
    data = (tiny_shop / "events.parquet", release.info.popularity_as_of_ms, load_bundle(trained[0]), release.item_ids)
    found = quality_gates(*data, release.vectors_NV.numpy(), first_rows, None, Limits())
    gates = {gate.name: gate for gate in found}
    assert (gates["recall100"].at_least, gates["recall100"].passed) == (0.95, False)
    assert gates["search_p99_ms"].at_most is None, "nothing to compare with: it is measured for the next"


def test_a_release_keeps_to_its_budget_of_bytes(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bytes is \d{3},\d{3} bytes, must be at most 100,000 bytes"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", tmp_path, None, limits=Limits(max_bytes=100_000))


def test_worse_is_only_what_chance_does_not_explain() -> None:
    """Of 400 requests, half answered: losing 40 of them for good is no chance; losing 110 and winning 100 others may be."""
    theirs = np.tile([1.0, 0.0], 200)
    worse, other = theirs.copy(), theirs.copy()
    worse[np.flatnonzero(theirs)[:40]] = 0
    other[np.flatnonzero(theirs)[:110]] = 0
    other[np.flatnonzero(theirs == 0)[:100]] = 1
    assert not no_worse("recall", worse, theirs, 0.98).passed
    assert no_worse("recall", other, theirs, 0.98).passed
    assert no_worse("recall", theirs, theirs, 1.0).passed
    gate = no_worse("recall", worse, theirs, 0.98)
    assert (gate.value, gate.base) == (0.4, 0.5)
    assert gate.at_least == pytest.approx(0.98 * 0.5 - (gate.noise or 0))


def test_one_flipped_bit_of_an_unchanged_item_is_found() -> None:
    """Rows moved, one item changed and one is new; what stands behind the embedding may change."""
    old = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows, unchanged = np.array([2, -1, 0, 3]), np.array([True, False, True, False])
    new = old[rows].copy()
    new[:, 2] = -1.0
    new[3] = 0.0
    assert unchanged_gate(new, old, 2, np.where(unchanged, rows, -1)).passed
    new.view(np.uint32)[2, 1] ^= 1
    gate = unchanged_gate(new, old, 2, np.where(unchanged, rows, -1))
    assert (gate.value, gate.passed) == (0.5, False)
    assert unchanged_gate(new, old, 2, np.full(4, -1)).passed


def test_nan_passes_no_gate() -> None:
    assert not Gate(name="overlap", value=float("nan"), at_least=0.0).passed
    assert not Gate(name="change", value=float("nan"), at_most=1.0).passed
