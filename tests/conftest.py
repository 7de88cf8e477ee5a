"""One small shop for all tests: its files, an untrained bundle made for it, and a store with one release."""

import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch

import tests.interpreter  # noqa: F401 - before whatever imports kernels: they are interpreted from here on
from embedder_cache.build import build_release
from twotower.artefacts.bundle import load_bundle, save_bundle
from twotower.artefacts.release import open_store
from twotower.artefacts.store import Store
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import load_schema
from twotower.model.catalogue import fit_item_spec, read_item_ids
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.synthetic import write_shop

torch.set_num_threads(1)  # several processes share the cores; waiting threads would spin


@pytest.fixture(scope="session", autouse=True)
def searches_timed_by_the_cpu() -> Iterator[None]:
    """A release is refused whose index answers slowly: that the machine was busy with other tests shall not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedder_cache.checks.index_choice.time", SimpleNamespace(perf_counter=time.thread_time))
        yield


@pytest.fixture(scope="session")
def tiny_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with events.parquet, items.parquet and schema.toml."""
    directory = tmp_path_factory.mktemp("shop")
    write_shop(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_bundle(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with seeded, untrained towers: everything true of it but its quality."""
    torch.manual_seed(0)
    schema = load_schema(tiny_shop / "schema.toml")
    item_ids = read_item_ids(tiny_shop / "items.parquet", schema.items)
    model = ModelConfig(
        item_spec=fit_item_spec(tiny_shop / "items.parquet", schema.items),
        context_spec=FeatureSpec(
            fields=(
                FieldSpec(name="event_type", kind="categorical"),
                FieldSpec(name="price_paid", kind="numeric", edges=(0.0, 2.0, 8.0)),
                FieldSpec(name="channel", kind="categorical"),
            )
        ),
        width=32,
        num_layers=2,
        num_heads=4,
        ffn_width=88,
        table_rows=64,
        embedder_hidden=32,
        context_table_rows=32,
        query_field="title",
    )
    popularity = pa.table(
        {
            "item_id": item_ids,
            "log_popularity": pa.array([[-6.0 - 0.01 * i] for i in range(len(item_ids))], pa.list_(pa.float32())),
        }
    )
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(path, build_embedder(model), Contextualizer(model), model, (14.0,), schema, popularity, {}, {"seed": 0})
    return path


@pytest.fixture(scope="session")
def tiny_store(tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release store whose current release serves the tiny shop."""
    store = tmp_path_factory.mktemp("store")
    published = build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, tiny_shop / "events.parquet")
    assert published.changed
    assert json.loads((store / "CURRENT").read_bytes())["release"] == published.release
    return store


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a real HTTP server on loopback that speaks S3; it ends when its standard input does."""
    program = (
        "import sys; from moto.server import ThreadedMotoServer; server = ThreadedMotoServer('127.0.0.1', 0, verbose=False); "
        "server.start(); print(server.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdin
        assert server.stdout
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


@pytest.fixture
def s3_store(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store in a bucket of its own, with the credentials in the environment and a cache to match."""
    settings = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "shop", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    bucket = f"shop-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")).close()
    return f"s3://{bucket}/stores/main"


@pytest.fixture(params=["directory", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store, of each kind in turn."""
    if request.param == "bucket":
        return open_store(str(request.getfixturevalue("s3_store")))
    (tmp_path / "store" / "releases").mkdir(parents=True)
    return open_store(tmp_path / "store")
