"""The nightly jobs of compose.yaml and of the cluster: processes with the arguments, mounts and root of their containers."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]

from service.keys_command import main as new_key
from tests.deploy.containers import Mount, command, environment, needs_namespaces, ran
from tests.deploy.promql import DEPLOY
from tests.deploy.test_kubernetes import base, free_port, pods
from twotower.artefacts.release import current_release, read_pointer
from twotower.nightly.status import STEPS

pytestmark = needs_namespaces


class Volumes:
    """The volumes of a job, as folders of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of_the_cluster(self, changes: dict[str, str], hosts: str = "") -> tuple[list[Mount], list[str], dict[str, str]]:
        """Mounts, arguments and settings of the CronJob's container."""
        pod = pods(base())["nightly"]
        (container,) = pod["containers"]
        (self.folder / "key").mkdir(parents=True, exist_ok=True)
        config = self._changed(DEPLOY / "kubernetes" / "base" / "nightly.toml", changes)
        mounts = []
        for mount in container["volumeMounts"]:
            if mount["name"] == "config":
                mounts.append(Mount(config, mount["mountPath"], True))
            elif mount["mountPath"] != "/tmp":
                source = self.folder / mount["name"] / mount.get("subPath", "")
                source.mkdir(parents=True, exist_ok=True)
                mounts.append(Mount(source, mount["mountPath"], mount.get("readOnly", False)))
        if hosts:
            (self.folder / "hosts").write_text(hosts)
            mounts.append(Mount(self.folder / "hosts", "/etc/hosts", True))
        return mounts, container["args"], {one["name"]: one["value"] for one in container["env"]}

    def of_compose(self, changes: dict[str, str]) -> tuple[list[Mount], list[str], dict[str, str]]:
        """Mounts, arguments and settings of the service `nightly`."""
        service: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["nightly"]
        mounts = []
        for line in service["volumes"]:
            source, target, *mode = re.sub(r"\$\{\w+:?-(.*?)\}", r"\1", line).split(":")
            folder = self.folder / Path(source).name
            if source == "./nightly.toml":
                folder = self._changed(DEPLOY / "nightly.toml", changes)
            else:
                folder.mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(folder, target, mode == ["ro"]))
        return mounts, service["command"], {}

    def _changed(self, config: Path, changes: dict[str, str]) -> Path:
        text = config.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (self.folder / "nightly.toml").write_text(text)
        return self.folder / "nightly.toml"


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    (tmp_path / "volumes").mkdir()
    return Volumes(tmp_path / "volumes")


def states(folder: Path) -> dict[str, tuple[str, str]]:
    """State and message of each step of the last night."""
    night = json.loads((max(folder.glob("20*")) / "status.json").read_bytes())
    return {step["name"]: (step["state"], step["message"]) for step in night["steps"]}


@pytest.mark.parametrize("where", ["of_the_cluster", "of_compose"])
def test_without_data_the_job_says_so_and_its_state_and_metrics_are_on_the_volumes(
    where: str, volumes: Volumes, tmp_path: Path
) -> None:
    mounts, arguments, settings = getattr(volumes, where)({})
    done = ran(tmp_path / "root", mounts, arguments, **settings)
    nights, written = {
        "of_the_cluster": (volumes.folder / "nightly" / "nights", volumes.folder / "nightly" / "metrics" / "nightly.prom"),
        "of_compose": (volumes.folder / "nights", volumes.folder / "nightly" / "nightly.prom"),
    }[where]
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith("data/events.parquet is not there. What was served stays.")
    assert states(nights)["ingest"][0] == "failed"
    assert 'twotower_nightly_step_state{step="ingest",state="failed"} 1.0' in written.read_text()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_the_job_of_compose_does_a_first_night_with_the_bundle_that_is_mounted(
    volumes: Volumes, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_shop, volumes.folder / "data")
    shutil.copytree(tiny_bundle, volumes.folder / "bundle")
    signals = 'signals = "/data/signals.parquet"'
    mounts, arguments, _ = volumes.of_compose({signals: "", "minutes = 30": "minutes = 30\nevery_days = 1e5"})
    done = ran(tmp_path / "root", mounts, arguments)
    assert done.returncode == 0, done.stderr
    assert current_release(volumes.folder / "store") is not None
    assert states(volumes.folder / "nights")["train"][0] == "skipped"
    assert {path.name for path in (volumes.folder / "nightly").iterdir()} == {"nightly.prom", "embed.prom"}


@contextmanager
def servers(store: Path, keys: Path, port: int, tmp_path: Path) -> Iterator[None]:
    """Two servers with the same port for operators, each on an address of its own, as pods have; and people who ask them."""
    started, over, threads = [], threading.Event(), []
    for host in ("127.0.0.1", "127.0.0.2"):
        http = free_port()
        words = ["serve", "--host", host, "--port", str(http), "--keys", "/keys.toml", "--admin-port", str(port)]
        settings = {
            "TWOTOWER_ADMIN_HOST": host,
            "TWOTOWER_CACHE": "/tmp/cache",
            "TWOTOWER_STORE": "/store",
            "TWOTOWER_POLL_S": "2",
        }
        mounts = [Mount(store, "/store", True), Mount(keys, "/keys.toml", True)]
        root = tmp_path / f"root-{host}"
        root.mkdir()
        line = command(root, mounts, [*words, "--history", "sqlite:////tmp/history.db"])
        with (tmp_path / f"{host}.log").open("w") as log:
            started.append(subprocess.Popen(line, env=environment(**settings), stdout=log, stderr=log))
        threads.append(threading.Thread(target=people, args=(f"http://{host}:{http}", over), daemon=True))
        threads[-1].start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for process in started:
            process.terminate()
            process.wait()


def people(address: str, over: threading.Event) -> None:
    """Ask for recommendations ten times a second."""
    number = 0
    with httpx.Client(base_url=address, headers={"Authorization": "Bearer shop.SECRET"}) as http:
        while not over.wait(0.1):
            number += 1
            try:
                http.post("/v1/recommend", json={"user_id": f"user-{number % 40}"})
            except httpx.TransportError:
                continue


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_two_nights_in_the_cluster_of_which_the_second_is_tried_on_every_server(
    volumes: Volumes, tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    changes = {
        "minutes = 60": "minutes = 0.1\nevery_days = 1e5",
        "server-admin:9000": f"server-admin:{port}",
        "percent = 5\nseconds = 1800": "percent = 50\nseconds = 3",
    }
    hosts = "127.0.0.1 localhost\n127.0.0.1 server-admin\n127.0.0.2 server-admin\n"
    mounts, arguments, settings = volumes.of_the_cluster(changes, hosts)
    nights, store, data = (volumes.folder / name for name in ("nightly/nights", "store", "nightly/data"))
    shutil.copytree(tiny_shop, data, dirs_exist_ok=True)
    first = ran(tmp_path / "first", mounts, [*arguments, "--date", "2026-05-30"], **settings)
    assert first.returncode == 0, first.stderr
    assert states(nights)["train"][0] == "done"
    before = current_release(store)

    new_key(["new", "--scopes", "admin", "--id", "nightly"])
    told = capsys.readouterr().out
    (key,) = re.findall(r"^# (nightly\..+)$", told, re.MULTILINE)
    (volumes.folder / "key" / "key").write_text(key)
    (tmp_path / "keys.toml").write_text(told)
    items = pq.read_table(data / "items.parquet")
    changed = items.set_column(items.schema.get_field_index("price"), "price", pa.array([9.5] * len(items)))
    pq.write_table(pa.concat_tables([changed.slice(0, 5), items.slice(5)], promote_options="permissive"), data / "items.parquet")
    with servers(store, tmp_path / "keys.toml", port, tmp_path):
        time.sleep(1)
        second = ran(tmp_path / "second", mounts, [*arguments, "--date", "2026-05-31"], **settings)
    assert second.returncode == 0, second.stderr
    assert states(nights)["canary"][1].startswith("passed on 2 servers: ")
    assert [states(nights)[name][0] for name in STEPS].count("done") == 8  # neither trained nor evaluated
    assert read_pointer(store).release != before
    assert "twotower_nightly_running 0.0" in (volumes.folder / "nightly/metrics/nightly.prom").read_text()
