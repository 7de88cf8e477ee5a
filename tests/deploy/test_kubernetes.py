"""The manifests for Kubernetes: against the schemas of its API, and against what the service needs. No cluster is asked."""

import importlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.deploy.promql import unknown
from twotower.cli import COMMANDS
from twotower.nightly.command import BEFORE, FAILED
from twotower.nightly.config import Config, load_config
from twotower.nightly.run import STOP_S

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
APPLY = FOLDER / "apply.sh"
OVERLAYS = ("cpu", "gpu")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="HAProxy is not installed (Debian: apt-get install haproxy)"
)
Manifest = dict[str, Any]


def kustomization() -> Manifest:
    content: Manifest = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    return content


def base() -> list[Manifest]:
    """The manifests as they stand in the files."""
    return [one for name in kustomization()["resources"] for one in yaml.safe_load_all((FOLDER / "base" / name).read_text())]


@cache
def built(overlay: str) -> list[Manifest]:
    """The manifests of an overlay, as kustomize makes them."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "overlays" / overlay)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def called(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    template = spec["jobTemplate"]["spec"]["template"] if manifest["kind"] == "CronJob" else spec["template"]
    pod: Manifest = template["spec"]
    return pod


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    kinds = ("Deployment", "StatefulSet", "CronJob")
    return {one["metadata"]["name"]: pod_of(one) for one in manifests if one["kind"] in kinds}


def titled(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", base(), ids=titled)
def test_every_manifest_is_what_the_schema_of_its_kind_allows(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_a_manifest_with_a_word_that_kubernetes_does_not_know_is_refused() -> None:
    manifest = json.loads(json.dumps(called(base(), "Deployment", "server")))
    pod_of(manifest)["containers"][0]["livenessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProbes"):
        kubernetes_validate.validate(manifest, "1.34", strict=True)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_every_overlay_and_the_schemas_allow_it(overlay: str) -> None:
    for manifest in built(overlay):
        kubernetes_validate.validate(manifest, "1.34", strict=True)
        assert manifest["metadata"].get("namespace", "twotower") == "twotower"
    images = [c["image"] for pod in pods(built(overlay)).values() for c in pod["containers"]]
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+", image) for image in images)


@pytest.mark.parametrize("name", pods(base()))
def test_no_pod_runs_as_root_or_may_write_its_image_or_holds_a_token_of_the_cluster(name: str) -> None:
    pod = pods(base())[name]
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == locked
        assert "memory" in container["resources"]["limits"]
        assert "cpu" not in container["resources"]["limits"]  # it would pause the event loop


def commands() -> list[tuple[str, Manifest]]:
    """The containers that run a command of ours, in every overlay that can be built."""
    sets = [base(), *([built(o) for o in OVERLAYS] if shutil.which("kubectl") else [])]
    return [
        (c["args"][0], c) for one in sets for pod in pods(one).values() for c in pod["containers"] if "twotower" in c["image"]
    ]


def test_every_command_option_and_setting_exists(capsys: pytest.CaptureFixture[str]) -> None:
    names = set()
    for command, container in commands():
        names.add(command)
        module, function = COMMANDS[command].target.split(":")
        with pytest.raises(SystemExit):
            getattr(importlib.import_module(module), function)(["--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {a.partition("=")[0] for a in container["args"] if a.startswith("--")} <= known
        settings = {f"TWOTOWER_{name}".upper() for name in Settings.model_fields} | {"TWOTOWER_CACHE"}
        assert {variable["name"] for variable in container["env"]} <= settings
    assert names == {"serve", "nightly"}


def test_a_server_has_the_time_to_drain_before_it_is_killed() -> None:
    pod = pods(base())["server"]
    (server,) = pod["containers"]
    drain_s = float({v["name"]: v.get("value") for v in server["env"]}["TWOTOWER_DRAIN_S"])
    shutdown_s = Settings.model_fields["shutdown_timeout_s"].default
    assert pod["terminationGracePeriodSeconds"] >= drain_s + shutdown_s + 5
    probe = server["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] < drain_s
    assert server["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert probe["httpGet"]["path"] == "/readyz"
    assert server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"] >= 120


def test_an_update_takes_no_server_away_before_the_next_one_answers() -> None:
    for name in ("server", "router"):
        assert called(base(), "Deployment", name)["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        budget = called(base(), "PodDisruptionBudget", name)["spec"]
        selector = called(base(), "Deployment", name)["spec"]["selector"]
        assert (budget["maxUnavailable"], budget["selector"]) == (1, selector)


def test_nobody_but_the_autoscaler_says_how_many_servers_there_are() -> None:
    scaler = called(base(), "HorizontalPodAutoscaler", "server")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "server"
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in called(base(), "Deployment", "server")["spec"]


def test_the_autoscaler_asks_for_a_metric_that_the_adapter_makes_of_one_of_ours() -> None:
    (metric,) = [
        m["pods"]["metric"]["name"] for m in called(base(), "HorizontalPodAutoscaler", "server")["spec"]["metrics"] if "pods" in m
    ]
    (rule,) = yaml.safe_load((FOLDER / "prometheus_adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == metric
    ours = {m.name: {"namespace", "pod"} for m in Metrics(CollectorRegistry()).registry.collect()}
    assert unknown(rule["seriesQuery"], ours) == []


def test_the_nightly_job_never_runs_twice_at_once() -> None:
    spec = called(base(), "CronJob", "nightly")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] > 0
    assert 0 < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600
    assert pods(base())["nightly"]["restartPolicy"] == "Never"


def night() -> Config:
    """The configuration of the nights in the cluster."""
    return load_config(FOLDER / "base" / "nightly.toml")


def test_a_night_has_the_time_that_training_and_trial_take() -> None:
    job = called(base(), "CronJob", "nightly")["spec"]["jobTemplate"]["spec"]
    config = night()
    assert config.train.minutes is not None
    longest_s = config.train.minutes * 60 + config.canary.seconds + 2 * config.canary.patience_s
    assert job["activeDeadlineSeconds"] > 1.5 * longest_s
    assert pods(base())["nightly"]["terminationGracePeriodSeconds"] > STOP_S


def test_a_pod_that_was_killed_is_followed_by_another_and_a_release_that_was_refused_is_not_tried_again() -> None:
    job = called(base(), "CronJob", "nightly")["spec"]["jobTemplate"]["spec"]
    assert job["backoffLimit"] > 0
    disrupted, *by_status = job["podFailurePolicy"]["rules"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    decided = {status: rule["action"] for rule in by_status for status in rule["onExitCodes"]["values"]}
    assert decided == {FAILED: "FailJob", BEFORE: "Ignore"}
    assert {rule["onExitCodes"]["containerName"] for rule in by_status} == {"nightly"}


def test_a_night_writes_to_volumes_alone_and_prometheus_sees_its_files() -> None:
    pod, config = pods(base())["nightly"], night()
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert container["args"] == ["nightly", "--config=/config/nightly.toml"]
    assert mounts["/config/nightly.toml"]["subPath"] == "nightly.toml"
    assert {"name": "nightly", "files": ["nightly.toml"]} in kustomization()["configMapGenerator"]
    written = (config.nights, config.metrics, config.release.metrics, config.release.store)
    for path in (*written, config.data.events, config.data.items, config.data.schema):
        (mount,) = [mount for name, mount in mounts.items() if path and Path(path).is_relative_to(name)]
        assert not mount.get("readOnly"), path
        assert mount["name"] in ("nightly", "store")
    (exporter,) = pods(base())["nightly-metrics"]["containers"]
    (shown,) = exporter["volumeMounts"]
    assert config.metrics
    assert config.release.metrics
    folders = {str(Path(name).parent) for name in (config.metrics, config.release.metrics)}
    assert [mounts[folder]["subPath"] for folder in folders] == [shown["subPath"]]


def test_the_nightly_job_asks_every_server_with_a_key_and_may_reach_it() -> None:
    (server,) = night().canary.servers
    url = urlsplit(server.removeprefix("dns+"))
    service = called(base(), "Service", url.hostname or "")["spec"]
    assert server.startswith("dns+http://")
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    labels = called(base(), "Deployment", "server")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"] == labels
    (port,) = service["ports"]
    (named,) = [p for p in pods(base())["server"]["containers"][0]["ports"] if p["name"] == port["targetPort"]]
    assert (port["port"], named["containerPort"]) == (url.port, url.port)
    (leaves,) = called(base(), "NetworkPolicy", "nightly")["spec"]["egress"]
    assert leaves == {"to": [{"podSelector": {"matchLabels": labels}}], "ports": [{"protocol": "TCP", "port": url.port}]}
    arrives = called(base(), "NetworkPolicy", "server")["spec"]["ingress"]
    nightly = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "nightly"}}}
    assert [rule["ports"][0]["port"] for rule in arrives if nightly in rule["from"]] == [url.port]
    pod = pods(base())["nightly"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "key"]
    assert (secret["secretName"], f"{mount['mountPath']}/key") == ("nightly", night().canary.key_file)


def test_only_the_nightly_job_writes_releases() -> None:
    writers = [
        name
        for name, pod in pods(base()).items()
        for container in pod["containers"]
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "store" and not mount.get("readOnly")
    ]
    assert writers == ["nightly"]


def test_every_claim_and_config_that_is_mounted_is_there() -> None:
    claims = {one["metadata"]["name"] for one in base() if one["kind"] == "PersistentVolumeClaim"}
    made = {one["name"] for one in kustomization()["configMapGenerator"]}
    for pod in pods(base()).values():
        volumes = pod.get("volumes", [])
        assert {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v} <= claims
        assert {v["configMap"]["name"] for v in volumes if "configMap" in v} <= made


def test_nothing_may_speak_but_what_is_allowed_by_name() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in base() if one["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = {
        name: [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
        for name, spec in policies.items()
        if spec.get("ingress")
    }
    assert opened == {"router": [8080], "server": [8000, 9000], "redis": [6379], "nightly-metrics": [9100]}
    kinds = ("Deployment", "StatefulSet", "CronJob")
    labels = {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in base() if one["kind"] in kinds}
    chosen = {spec["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for spec in policies.values() if spec["podSelector"]}
    assert chosen == labels


def test_every_service_leads_to_pods_with_a_port_of_that_name() -> None:
    ports: defaultdict[str, set[str]] = defaultdict(set)
    for one in base():
        if one["kind"] in ("Deployment", "StatefulSet"):
            label = one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
            ports[label] |= {p["name"] for c in pod_of(one)["containers"] for p in c["ports"]}
    for one in base():
        if one["kind"] == "Service":
            assert {p["targetPort"] for p in one["spec"]["ports"]} <= ports[one["spec"]["selector"]["app.kubernetes.io/name"]]


def test_prometheus_finds_the_servers_under_the_name_that_the_rules_look_for() -> None:
    servers, nightly = yaml.safe_load_all((FOLDER / "pod_monitor.yaml").read_text())
    template = called(base(), "Deployment", "server")["spec"]["template"]
    assert servers["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert template["metadata"]["labels"][servers["spec"]["jobLabel"]] == "twotower"
    names = {p["name"] for pod in pods(base()).values() for c in pod["containers"] for p in c.get("ports", [])}
    assert {e["port"] for one in (servers, nightly) for e in one["spec"]["podMetricsEndpoints"]} <= names


# Routing, by the real HAProxy.


@contextmanager
def upstream(name: str) -> Iterator[int]:
    """A server that answers with its name; its port."""

    class Named(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        do_GET = do_POST = do_OPTIONS = answer  # named by the base class

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Named)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def router(ports: list[int], tmp_path: Path) -> Iterator[str]:
    """HAProxy with the configuration of the manifests, and servers on this machine in place of the cluster's; its address."""
    text = (FOLDER / "base" / "haproxy.cfg").read_text()
    listens, health = free_port(), free_port()
    servers = "\n".join(f"    server s{port} 127.0.0.1:{port}" for port in ports)
    text = re.sub(r"^    server-template .*$", servers, text, flags=re.MULTILINE)
    text = text.replace("bind :8080", f"bind 127.0.0.1:{listens}").replace("bind :8404", f"bind 127.0.0.1:{health}")
    (tmp_path / "haproxy.cfg").write_text(text)
    process = subprocess.Popen(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            time.sleep(0.05)
            try:
                if httpx.get(f"http://127.0.0.1:{health}/healthz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
        yield f"http://127.0.0.1:{listens}"
    finally:
        process.kill()
        process.wait()


@needs_haproxy
def test_a_user_always_comes_to_the_same_server_and_few_users_move_when_one_goes(tmp_path: Path) -> None:
    users = [f"user-{n}" for n in range(60)]

    def asked(address: str) -> dict[str, str]:
        with httpx.Client(base_url=address) as http:
            return {user: http.post("/v1/recommend", json={"num_results": 3, "user_id": user}).text for user in users}

    with upstream("a") as a, upstream("b") as b, upstream("c") as c:
        with router([a, b, c], tmp_path) as address:
            first = asked(address)
            assert asked(address) == first
            assert set(first.values()) == {"a", "b", "c"}
            with httpx.Client(base_url=address) as http:
                sessions = [http.post("/v1/recommend", json={"session_id": "s1"}).text for _ in range(6)]
                nobody = [http.post("/v1/recommend", json={"events": []}).text for _ in range(12)]
                long = [http.post("/v1/recommend", json={"events": ["x" * 80_000]}).text for _ in range(6)]
            assert len(set(sessions)) == 1
            assert set(nobody) == {"a", "b", "c"}
            assert len(set(long)) > 1
        with router([a, b], tmp_path) as address:
            then = asked(address)
    assert all(then[user] == first[user] for user in users if first[user] != "c")


# Applying, with a kubectl that answers for a cluster.

KUBECTL = """#!/bin/sh
case "$*" in
  kustomize*) {kustomize} ;;
  "get storageclass"*) {storage} ;;
  *"get secret nightly"*) {key} ;;
  *"get secret"*) {secret} ;;
  apply*) cat > /dev/null; echo applied "$@" ;;
esac
"""


def applied(tmp_path: Path, overlay: str = "cpu", claims: str = "", **answers: str) -> "subprocess.CompletedProcess[str]":
    """What apply.sh does. `claims` is added to the manifests; `answers` are commands of the shell."""
    files = [FOLDER / "base" / name for name in kustomization()["resources"]]
    (tmp_path / "built.yaml").write_text("---\n".join(file.read_text() for file in files) + claims)
    told = {"kustomize": f"cat {tmp_path}/built.yaml", "storage": "echo 'fast true'", "secret": "true", "key": "true"} | answers
    fake = tmp_path / "kubectl"
    fake.write_text(KUBECTL.format(**told))
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    return subprocess.run([str(APPLY), overlay], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"storage": "echo 'fast '"}, "the cluster has no default storage class"),
        ({"storage": "exit 1"}, "the cluster does not answer"),
        ({"secret": "false"}, "the namespace twotower has no secret twotower with keys.toml and history"),
        ({"key": "false"}, "the namespace twotower has no secret nightly with key"),
        ({"kustomize": "exit 1"}, f"{FOLDER}/overlays/cpu cannot be built"),
    ],
)
def test_what_a_cluster_lacks_is_said_in_a_sentence_before_anything_changes(
    answers: dict[str, str], told: str, tmp_path: Path
) -> None:
    done = applied(tmp_path, **answers)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(told)
    assert done.stdout == ""


def test_a_storage_class_that_an_overlay_names_must_be_there(tmp_path: Path) -> None:
    done = applied(tmp_path, claims="---\nspec:\n  storageClassName: nfs\n")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("the cluster has no storage class nfs")
    assert line.endswith("name one of these: fast ")
    assert done.stdout == ""
    assert applied(tmp_path, claims="---\nspec:\n  storageClassName: fast\n", storage="echo 'fast '").returncode == 0


def test_a_cluster_that_has_everything_gets_the_manifests(tmp_path: Path) -> None:
    done = applied(tmp_path, "gpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "applied apply -f -"


@needs_kubectl
def test_the_real_kubectl_builds_what_is_applied(tmp_path: Path) -> None:
    assert applied(tmp_path, "gpu", kustomize=f'exec {shutil.which("kubectl")} "$@"').returncode == 0


def test_an_overlay_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    done = subprocess.run([str(APPLY), "tpu"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "give an overlay: one of cpu gpu \n")
