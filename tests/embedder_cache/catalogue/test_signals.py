"""What is announced comes fresh with every release, or not at all."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from twotower.artefacts.bundle import Bundle, load_bundle, save_bundle
from twotower.artefacts.release import VECTORS, release_path
from twotower.data.schema import SignalColumns
from twotower.errors import DataError
from twotower.model.contextualizer import Contextualizer


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle for a shop that prints mailers; when training ended, every item was in one."""
    was = load_bundle(tiny_bundle)
    model = msgspec.structs.replace(was.towers.config.model, num_popularity=2)
    schema = msgspec.structs.replace(was.towers.schema, signals=SignalColumns(features=("mailer",)))
    values = pa.array([[p, 0.75] for (p,) in was.popularity["log_popularity"].to_pylist()], pa.list_(pa.float32()))
    popularity = was.popularity.set_column(1, "log_popularity", values)
    path = tmp_path_factory.mktemp("mailers") / "bundle"
    save_bundle(path, was.towers.embedder, Contextualizer(model), model, (14.0,), schema, popularity, {}, {})
    return load_bundle(path)


def mailers(path: Path, *rows: tuple[str, datetime, datetime | None, float]) -> Path:
    item_id, begin, end, mailer = zip(*rows, strict=True)
    stamp = pa.timestamp("ms", "UTC")
    columns = {"item_id": item_id, "from": pa.array(begin, stamp), "until": pa.array(end, stamp), "mailer": mailer}
    pq.write_table(pa.table(columns), path)
    return path


def test_signals_are_those_of_the_day_after_the_last_event(bundle: Bundle, tiny_shop: Path, tmp_path: Path) -> None:
    """And only they differ from a release in which nothing is announced."""
    events, items = tiny_shop / "events.parquet", tiny_shop / "items.parquet"
    last = pc.max(pq.read_table(events)["timestamp"]).as_py()
    day = timedelta(days=1)
    file = mailers(
        tmp_path / "signals.parquet",
        ("item-5", last - day, last + day, 0.5),
        ("item-6", last - 9 * day, last, 1.0),
        ("gone", last, None, 1.0),
    )
    why, store = "its towers are untrained", tmp_path / "store"
    releases = [build_release(bundle, items, store, events, signals=s, forced=why).release for s in (None, file)]
    silent, told = (np.load(release_path(store, r) / VECTORS) for r in releases)
    assert silent.shape[1] == 32 + 2
    np.testing.assert_array_equal(told[:, :33], silent[:, :33])
    item_ids = pq.read_table(items)["item_id"].to_pylist()
    assert {item_ids[row]: told[row, 33] for row in np.flatnonzero(told[:, 33])} == {"item-5": 0.5}


def test_without_events_the_day_is_today(bundle: Bundle, tiny_shop: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    week = timedelta(days=7)
    file = mailers(tmp_path / "signals.parquet", ("item-5", now - week, now + week, 0.5), ("item-6", now - week, now, 1.0))
    published = build_release(bundle, tiny_shop / "items.parquet", tmp_path / "store", None, signals=file)
    vectors = np.load(release_path(tmp_path / "store", published.release) / VECTORS)
    assert vectors[:, 33].sum() == 0.5


def test_without_a_file_nothing_is_announced_and_it_is_said(
    bundle: Bundle, tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = build_release(bundle, tiny_shop / "items.parquet", tmp_path, None)
    assert not np.load(release_path(tmp_path, published.release) / VECTORS)[:, 33].any(), "the mailers of training are over"
    assert "WARNING: no --signals given" in capsys.readouterr().err


def test_the_same_announcements_publish_nothing_new(bundle: Bundle, tiny_shop: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    file = mailers(tmp_path / "signals.parquet", ("item-5", now - timedelta(days=9), None, 0.5))
    items = tiny_shop / "items.parquet"
    first, second = (build_release(bundle, items, tmp_path / "store", None, signals=file) for _ in range(2))
    assert (first.changed, second.changed) == (True, False)


def test_signals_for_a_model_that_knows_none_are_refused(tiny_bundle: Path, tiny_shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave --signals out"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", tmp_path, None, signals=tmp_path / "signals.parquet")
