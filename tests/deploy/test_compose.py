"""deploy/compose.yaml and what it mounts, read as YAML; by Docker itself where the compose plugin is installed."""

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from compose_spec import PyOptions

from twotower.cli import COMMANDS
from twotower.nightly.config import load_config

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def has_compose_plugin() -> bool:
    return shutil.which("docker") is not None and (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("name", OURS)
def test_every_build_target_is_a_stage_of_the_dockerfile(name: str) -> None:
    build = OURS[name]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert build["target"] in stages


def words(command: str | list[str]) -> list[str]:
    """A command as compose splits it, each variable at its default."""
    return shlex.split(re.sub(r"\$\{\w+-(.*?)\}", r"\1", command)) if isinstance(command, str) else command


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_option_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *arguments = words(OURS[name]["command"])
    module, function = COMMANDS[command].target.split(":")

    with pytest.raises(SystemExit):
        getattr(importlib.import_module(module), function)(["--help"])

    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {a for a in arguments if a.startswith("--")} <= known


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_named_volumes_are_declared_and_mounted_files_exist(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        if source.startswith("./"):
            assert (DEPLOY / source).exists()
        elif not source.startswith("${"):
            assert source in COMPOSE["volumes"]


def test_only_the_nightly_job_writes_releases() -> None:
    writers = [n for n, s in SERVICES.items() if any(re.fullmatch(r"store:[^:]+", v) for v in s.get("volumes", []))]
    assert writers == ["nightly"]
    assert SERVICES["nightly"]["profiles"] == ["nightly"]


def mounted(name: str) -> dict[str, str]:
    """What is mounted in a container -> where it comes from."""
    mounts = [re.sub(r"\$\{\w+:?-(.*?)\}", r"\1", mount) for mount in SERVICES[name]["volumes"]]
    return {mount.split(":")[1]: mount.split(":")[0] for mount in mounts}


def test_the_nights_use_nothing_but_what_is_mounted_and_ask_the_service_where_it_listens() -> None:
    mounts = mounted("nightly")
    config = load_config(DEPLOY / mounts["/config/nightly.toml"])
    data = (config.data.events, config.data.items, config.data.schema, config.data.signals)
    used = [path for path in (config.nights, config.metrics, *data, config.train.bundle, config.release.metrics) if path]
    found = {source for path in [*used, config.release.store] for mount, source in mounts.items() if within(path, mount)}
    assert found == {"nights", "nightly", "store", "../build/demo/data", "../build/demo/bundle"}
    assert all(any(within(path, mount) for mount in mounts) for path in used)
    command = SERVICES["service"]["command"]
    assert config.canary.servers == (f"http://service:{command[command.index('--port') + 1]}",)


def within(path: str, mount: str) -> bool:
    return Path(path).is_relative_to(mount)


def test_prometheus_reads_the_service_where_it_listens() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: [t for group in job["static_configs"] for t in group["targets"]] for job in config["scrape_configs"]
    }
    command = SERVICES["service"]["command"]
    assert targets == {"twotower": [f"service:{command[command.index('--port') + 1]}"], "nightly": ["node-exporter:9100"]}


def test_the_nightly_job_leaves_its_metrics_where_the_node_exporter_looks() -> None:
    config = load_config(DEPLOY / "nightly.toml")
    assert config.metrics
    assert config.release.metrics
    (folder,) = {str(Path(name).parent) for name in (config.metrics, config.release.metrics)}
    assert f"--collector.textfile.directory={folder}" in SERVICES["node-exporter"]["command"]
    assert f"nightly:{folder}" in SERVICES["nightly"]["volumes"]
    assert f"nightly:{folder}:ro" in SERVICES["node-exporter"]["volumes"]


def allowed(text: str) -> None:
    """ValueError for what the compose specification does not allow; each variable is at its default."""
    PyOptions(apply_merge=True).from_yaml(re.sub(r"\$\{\w+:?-(.*?)\}", r"\1", text)).validate()


def test_the_file_is_what_the_compose_specification_allows() -> None:
    allowed((DEPLOY / "compose.yaml").read_text())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healthchek:"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("stop_grace_period: 30s", "stop_grace_period: long"),
    ],
)
def test_what_the_compose_specification_does_not_allow_is_found(right: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"healthchek|expected a set|long"):
        allowed((DEPLOY / "compose.yaml").read_text().replace(right, wrong))


@pytest.mark.skipif(not has_compose_plugin(), reason="the compose plugin is not installed")
def test_docker_accepts_the_file() -> None:
    checked = subprocess.run(
        ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "-q"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
