"""Real requests: an equal retrain passes, and what answers worse is not published."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from embedder_cache.build import build_release
from embedder_cache.catalogue.opened_release import open_release
from embedder_cache.checks.gates import Gate, Limits
from embedder_cache.checks.holdout import ask_both, holdout_gates, no_worse
from tests.training.conftest import LEARNS
from training.run.run import run
from twotower.artefacts.bundle import Bundle, load_bundle, save_bundle
from twotower.artefacts.release import VECTORS, read_pointer, release_path
from twotower.artefacts.store import LocalStore
from twotower.data.schema import load_schema
from twotower.errors import DataError
from twotower.model.contextualizer import Contextualizer


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
    contextualizer.popularity_out.weight.neg_()
    contextualizer.popularity_out.bias.neg_()


def prefer_the_rare(contextualizer: Contextualizer, width: int) -> None:
    """One list for everyone, which begins with what nobody wants."""
    forget_users(contextualizer, width)
    contextualizer.popularity_out.bias[0] = -1.0


def forget_users(contextualizer: Contextualizer, width: int) -> None:
    """What is left is one list for everyone."""
    contextualizer.query_scale.zero_()
    for layer in (contextualizer.popularity_out, contextualizer.repeat_mlp[-1], contextualizer.repeat_query):
        assert isinstance(layer, torch.nn.Linear)
        layer.weight.zero_()
        layer.bias.zero_()
    contextualizer.popularity_out.bias[0] = 1.0


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
        "columns_of_another_type",
        "missing_rise",
        "recall100",
        "search_p99_ms",
        "bytes",
        "log_age_days",
        "log_back_days",
        "holdout_recall10_over_popularity",
        "holdout_ndcg10_over_popularity",
        "holdout_recall10",
        "holdout_ndcg10",
        "overlap20",
        "coverage20",
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
    bundle = spoiled(trained[0], tmp_path / "bundle", prefer_the_rare)
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
    found, refused = (gates_of(b, good_store, tiny_shop, Limits())["overlap20"] for b in (other, same))
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


def gates_of(bundle: Bundle, store: Path, tiny_shop: Path, limits: Limits) -> dict[str, Gate]:
    """What real requests say of the served vectors under another bundle."""
    release = open_release(LocalStore(store), read_pointer(store).release)
    until_ms = release.info.popularity_as_of_ms
    assert until_ms is not None
    events = tiny_shop / "events.parquet"
    holdout = ask_both(events, until_ms, bundle, release.item_ids, release.vectors_NV, release)
    assert holdout is not None
    return {gate.name: gate for gate in holdout_gates(holdout, bundle, release.item_ids, limits)}


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
