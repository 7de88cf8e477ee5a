"""`--engine ray` makes the release that one process makes; Ray runs in a process of its own, as for an operator."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray", reason="install the extra `ray`")

from embedder_cache.build import build_release
from embedder_cache.catalogue.column_types import HeldColumns
from embedder_cache.catalogue.intake import Intake, sound_items, take_in
from embedder_cache.embedding.local_engine import embed_some
from embedder_cache.embedding.ray_engine import RESULT, Worker, embed_on_ray, row_groups
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.artefacts.release import GATES, read_release_manifest

COPIES = 23  # of 400 items: a row group of 9,000 rows is two batches


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def items(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of two files, 9,200 items in three row groups, one of them without an id."""
    table = pq.read_table(tiny_shop / "items.parquet")
    ids = [f"{copy}/{item_id}" for copy in range(COPIES) for item_id in table["item_id"].to_pylist()]
    many = pa.concat_tables([table] * COPIES).set_column(0, "item_id", pa.array(["", *ids[1:]]))
    path = tmp_path_factory.mktemp("items")
    pq.write_table(many.slice(0, 9100), path / "a.parquet", row_group_size=9000)
    pq.write_table(many.slice(9100), path / "b.parquet")
    return path


@pytest.fixture(scope="module")
def intake(items: Path, bundle: Bundle) -> Intake:
    return take_in(items, bundle.towers.schema.items, bundle.towers.config.model.item_spec)


@pytest.fixture
def worker(bundle: Bundle, items: Path) -> Worker:
    return Worker(bundle.path, bundle.manifest.id, items, HeldColumns({}), None)


def embed(worker: Worker, groups: list[dict[str, object]]) -> list[dict[str, str | bytes | None]]:
    """The rows of the result, one per batch."""
    rows = [table.cast(RESULT).to_pylist() for table in worker(pa.Table.from_pylist(groups))]
    return [row for batch in rows for row in batch]


def test_workers_make_the_batches_of_one_process_bit_for_bit(worker: Worker, bundle: Bundle, items: Path, intake: Intake) -> None:
    todo_N = np.arange(len(intake.item_ids)) % 3 > 0
    batches = embed(worker, row_groups(items, intake, todo_N))
    expected = list(sound_items(items, bundle.towers.schema.items, intake))
    assert [len(table) for table, _ in expected] == [8191, 808, 100, 100]
    for batch, (table, place) in zip(batches, expected, strict=True):
        assert batch["vectors"] == embed_some(bundle, table, todo_N[place]).tobytes()
        assert batch["content"] == intake.content_N[place][todo_N[place]].tobytes()
        assert batch["error"] is None


def test_row_groups_with_nothing_to_embed_are_left_alone(items: Path, intake: Intake) -> None:
    todo_N = np.zeros(len(intake.item_ids), bool)
    assert row_groups(items, intake, todo_N) == []
    todo_N[9050] = True
    assert [(g["file"], g["group"]) for g in row_groups(items, intake, todo_N)] == [(0, 1)]


def test_with_nothing_to_embed_no_cluster_is_needed(
    bundle: Bundle, items: Path, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    nothing = np.zeros(len(intake.item_ids), bool)
    assert [place for _, place, _ in embed_on_ray(bundle, items, intake, nothing)] == list(intake.places)


def test_a_worker_with_another_bundle_says_so(bundle: Bundle, items: Path, intake: Intake) -> None:
    groups = row_groups(items, intake, np.ones(len(intake.item_ids), bool))
    (batch,) = embed(Worker(bundle.path, "bundle-0123456789ab", items, HeldColumns({}), None), groups[:1])
    assert (batch["error"], batch["vectors"]) == ("IntegrityError", None)
    assert "Give every node the same bundle" in str(batch["message"])


def test_a_worker_that_does_not_find_the_items_says_so(bundle: Bundle, items: Path, intake: Intake, tmp_path: Path) -> None:
    groups = row_groups(items, intake, np.ones(len(intake.item_ids), bool))
    (batch,) = embed(Worker(bundle.path, bundle.manifest.id, tmp_path / "elsewhere", HeldColumns({}), None), groups[:1])
    assert batch["error"] == "DataError"
    assert "elsewhere does not exist" in str(batch["message"])


def test_a_catalogue_with_fewer_files_on_a_node_is_refused(worker: Worker) -> None:
    (batch,) = embed(worker, [{"file": 2, "group": 0, "todo": b"\xff"}])
    assert batch["error"] == "DataError"
    assert "not the same on every node" in str(batch["message"])


@pytest.mark.timeout(600)  # most of it is processes that start; on a busy machine that takes minutes
def test_the_release_is_the_one_that_a_single_process_makes(bundle: Bundle, items: Path, tmp_path: Path) -> None:
    """With a row that is rejected, items kept of the release before, and several files, row groups and batches."""

    (tmp_path / "before").mkdir()
    pq.write_table(pq.read_table(items).slice(1, 8700), tmp_path / "before" / "items.parquet")
    build_release(bundle, tmp_path / "before", tmp_path / "local", None)
    shutil.copytree(tmp_path / "local", tmp_path / "cluster")
    local = build_release(bundle, items, tmp_path / "local", None)

    arguments = ["--bundle", bundle.path, "--items", items, "--store", tmp_path / "cluster", "--engine", "ray", "--json"]
    command = [sys.executable, "-m", "twotower.cli", "embed", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=590)
    result = json.loads(ran.stdout)
    assert (result["items"], result["embedded"], result["rejected"]) == (9199, 499, 1)
    apart, alone = (
        read_release_manifest(tmp_path / name / "releases" / release).files
        for name, release in (("cluster", result["release"]), ("local", local.release))
    )
    assert apart | {GATES: None} == alone | {GATES: None}, "but for the time of a search"
    phases = ["read", "embed", "build", "publish", "published", "+499", "WARNING:"]
    assert [line.split()[0] for line in ran.stderr.splitlines()] == phases, "Ray has nothing to tell"
