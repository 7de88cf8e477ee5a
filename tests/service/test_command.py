"""The command as its users run it: processes, sockets, signals."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from embedder_cache.build import build_release
from service.command import main, open_delta, open_history
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.conftest import TwoReleases
from tests.service.faults.processes import until
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.release import VECTORS, open_store, release_path, roll_back
from twotower.artefacts.signature import load_signer, make_keys
from twotower.errors import DataError, EnvironmentProblem, IntegrityError, StoreError

RUN = "import sys; from service.command import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def serving(store: Path | str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and the line it says when ready."""
    command = [sys.executable, "-W", "error", "-c", RUN, "--store", str(store), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def said(process: "subprocess.Popen[str]") -> str:
    """The next line that is not of the log."""
    assert process.stdout is not None
    return next(line for line in process.stdout if not line.startswith("{"))


def logged(process: "subprocess.Popen[str]", logger: str) -> str:
    """The next message of a logger."""
    assert process.stdout is not None
    lines = (json.loads(line) for line in process.stdout if line.startswith("{"))
    return next(str(line["message"]) for line in lines if line["logger"] == logger)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_answers_and_ends_cleanly_on_a_signal(tiny_store: Path, tmp_path: Path, number: int) -> None:
    with serving(tiny_store, "--history", f"sqlite:///{tmp_path / 'h.db'}") as (process, line):
        release, address = line.split()[2], line.split()[6]
        assert line == f"serving release {release} (400 items) on {address} - open {address}/ in a browser\n"
        with httpx.Client(base_url=address) as http:
            event = {"user_id": "a/b", "item_id": "item-1", "event_type": "view", "timestamp": 10**12}
            assert http.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
            answer = http.post("/v1/recommend", json={"user_id": "a/b"}).json()
            assert (answer["release"], answer["events_used"], len(answer["items"])) == (release, 1, 10)
            assert http.get("/v1/users/a%2Fb").json()["num_events"] == 1
            assert http.post("/v1/recommend", content=b" " * 300_000).status_code == 415
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        logged = [json.loads(line) for line in process.stdout.read().splitlines()]
        assert {line["logger"] for line in logged} <= {"twotower.settings", "twotower.requests"}  # nothing went wrong
        assert logged[0]["settings"]["host"] == "127.0.0.1"


def test_a_release_is_served_from_a_bucket_when_the_right_key_signed_it(
    s3_store: str, tiny_bundle: Path, tiny_shop: Path, tmp_path: Path
) -> None:
    (private, public), (_, stranger) = make_keys(tmp_path / "ours"), make_keys(tmp_path / "theirs")
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    release = build_release(bundle, items, s3_store, None, signer=load_signer(private)).release
    history = ("--history", f"sqlite:///{tmp_path / 'h.db'}")
    with serving(s3_store, *history, "--verify-key", str(public)) as (_, line):
        assert line.startswith(f"serving release {release} (400 items)")
        listed = httpx.get(line.split()[6] + "/v1/releases").json()["releases"]
        assert [(entry["id"], entry["current"]) for entry in listed] == [(release, True)]
    with pytest.raises(IntegrityError, match="another key"):
        main(["--store", s3_store, "--port", "0", *history, "--verify-key", str(stranger)])


def test_a_new_pointer_is_followed_without_a_restart(two: TwoReleases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_POLL_S", "0.1")
    with serving(two.store, "--history", f"sqlite:///{tmp_path / 'h.db'}") as (process, line), httpx.Client() as http:
        assert line.startswith(f"serving release {two.second} ")
        roll_back(open_store(two.store), None)
        expected = f"serving {two.first} (200 items) from now on; {two.second} is kept for 900 s"
        assert logged(process, "twotower.rollout") == expected
        assert http.post(line.split()[6] + "/v1/recommend", json={}).json()["release"] == two.first


def test_a_server_whose_newest_release_is_damaged_starts_with_the_one_before(two: TwoReleases, tmp_path: Path) -> None:
    (release_path(two.store, two.second) / VECTORS).write_bytes(b"rotten")
    with serving(two.store, "--history", f"sqlite:///{tmp_path / 'h.db'}") as (process, line):
        assert process.stdout is not None
        said = [line, process.stdout.readline(), process.stdout.readline()]
    assert [text.startswith("WARNING: ") for text in said] == [True, True, False]
    assert said[2].startswith(f"serving release {two.first} ")


def test_without_a_release_that_the_variants_name_the_current_one_answers(tiny_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")
    plan, gone = tmp_path / "variants.toml", "release-000000000000"
    plan.write_text(f'[[arms]]\nname = "older"\npercent = 100\nrelease = "{gone}"\n')
    with serving(store, "--history", f"sqlite:///{tmp_path / 'h.db'}", "--variants", str(plan)) as (process, warning):
        assert f"names {gone}, in whose place the current release answers" in warning
        line = said(process)
        answer = httpx.post(line.split()[6] + "/v1/recommend", json={}).json()
        assert (answer["release"], answer["variant"], len(answer["items"])) == (line.split()[2], "older", 10)
        until((store / "named" / gone).exists, within_s=10)  # so that a clean-up leaves what the plan names


def test_histories_outlive_the_server_even_when_it_is_killed(tiny_store: Path, tmp_path: Path) -> None:
    history = ("--history", f"sqlite:///{tmp_path / 'h.db'}")
    event = {"user_id": "ann", "item_id": "item-1", "event_type": "view", "timestamp": 10**12}
    with serving(tiny_store, *history) as (process, line):
        assert httpx.post(line.split()[6] + "/v1/events", json={"events": [event]}).status_code == 202
        process.kill()
    with serving(tiny_store, *history) as (_, line):
        assert httpx.get(line.split()[6] + "/v1/users/ann").json()["num_events"] == 1


def test_items_that_were_put_outlive_the_server_even_when_it_is_killed(tiny_store: Path, tmp_path: Path) -> None:
    history = ("--history", f"sqlite:///{tmp_path / 'h.db'}")
    with serving(tiny_store, *history) as (process, line):
        assert httpx.put(line.split()[6] + "/v1/items", json={"items": [{"item_id": "new"}]}).json()["accepted"] == 1
        process.kill()
    assert (tmp_path / "delta.db").is_file()
    with serving(tiny_store, *history) as (_, line):
        assert httpx.get(line.split()[6] + "/v1/items/new").json()["source"] == "delta"


def test_changes_have_a_file_of_their_own_or_none_with_histories_in_redis(tmp_path: Path) -> None:
    own = Settings(store=Path("store"), history="redis://127.0.0.1:1/0", delta=f"sqlite:///{tmp_path / 'own.db'}")
    assert open_delta(own) is not None
    assert (tmp_path / "own.db").is_file()
    assert open_delta(own.model_copy(update={"delta": None})) is None
    for wrong in ("redis://127.0.0.1:1/0", "own.db", f"sqlite:///{tmp_path}/nowhere/own.db"):
        with pytest.raises(EnvironmentProblem, match="--delta"):
            open_delta(own.model_copy(update={"delta": wrong}))


def test_several_processes_share_the_port_and_the_histories(tiny_store: Path, tmp_path: Path) -> None:
    with serving(tiny_store, "--history", f"sqlite:///{tmp_path / 'h.db'}", "--workers", "2") as (process, line):
        assert process.stdout is not None
        both = [line, said(process)]
        assert sorted(one.split(" in a browser ")[1] for one in both) == ["(process 1 of 2)\n", "(process 2 of 2)\n"]
        address = line.split()[6]
        for number in range(20):  # each over a connection of its own
            event = {"user_id": "ann", "item_id": "item-1", "event_type": "view", "timestamp": 10**12 + number}
            assert httpx.post(address + "/v1/events", json={"events": [event]}).json()["accepted"] == 1
            assert httpx.get(address + "/v1/users/ann").json()["num_events"] == number + 1
        assert httpx.put(address + "/v1/items", json={"items": [{"item_id": "new"}]}).status_code == 501
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert all(line.startswith("{") for line in process.stdout)  # its log


def test_changed_items_are_not_forgotten_by_several_processes(tmp_path: Path) -> None:
    settings = Settings(store=Path("store"), history=f"sqlite:///{tmp_path / 'h.db'}")
    several = [settings.model_copy(update=change) for change in ({"workers": 2}, {"engine": "process"})]
    assert [open_delta(one) for one in several] == [None, None]
    (tmp_path / "delta.db").touch()
    for one in several:
        with pytest.raises(EnvironmentProblem, match="only one process can serve"):
            open_delta(one)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, service.command as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--history URL" in result.stdout
    assert time.monotonic() - started < 5


def test_a_port_in_use_is_refused_with_advice(tiny_store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=rf"cannot listen on 127.0.0.1:{port}: .*Choose another --port"):
            main(["--store", str(tiny_store), "--port", str(port)])


def test_an_address_that_others_can_reach_is_refused_without_insecure(tiny_store: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"refusing to listen on 0\.0\.0\.0.*API keys.*--insecure"):
        main(["--store", str(tiny_store), "--host", "0.0.0.0"])


def test_a_store_without_a_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twotower embed"):
        main(["--store", str(tmp_path), "--port", "0"])


def test_a_history_that_cannot_be_written_is_refused(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="Choose a writable file"):
        main(["--store", str(tiny_store), "--port", "0", "--history", f"sqlite:///{tmp_path}/nowhere/h.db"])


def test_without_a_store_it_says_which_option_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWOTOWER_STORE", raising=False)
    with pytest.raises(EnvironmentProblem, match="give --store, or set TWOTOWER_STORE"):
        main([])


@pytest.mark.parametrize(
    "url", ["", "history.db", "sqlite://", "sqlite:///", "mysql://u:secret@h/d", "redis:/x", "unix://u:secret@/s"]
)
def test_a_history_url_of_another_kind_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(EnvironmentProblem, match="--history must be") as refused:
        open_history(Settings(store=Path("store"), history=url), Metrics(CollectorRegistry()))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://user:word@127.0.0.1:1/0"])
def test_a_redis_url_is_taken_though_nobody_answers_there_yet(url: str) -> None:
    metrics = Metrics(CollectorRegistry())
    store: Any = open_history(Settings(store=Path("store"), history=url), metrics)
    assert type(store._store).__name__ == "RedisHistory"
    assert metrics.registry.get_sample_value("twotower_circuit_state", {"dep": "history"}) == 0
    assert metrics.registry.get_sample_value("twotower_history_cache_bytes") == 0


def test_an_option_of_a_redis_url_that_there_is_not_is_refused() -> None:
    settings = Settings(store=Path("store"), history="redis://127.0.0.1:1/0?ssl_ca_file=ca.pem")
    with pytest.raises(EnvironmentProblem, match="ssl_ca_file"):
        open_history(settings, Metrics(CollectorRegistry()))


def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["--store", "x", "--port", "http"])


def test_an_admin_port_of_its_own_answers_what_the_other_does_not(tiny_store: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin_port = free.getsockname()[1]
    history = ("--history", f"sqlite:///{tmp_path / 'h.db'}")
    with serving(tiny_store, *history, "--admin-port", str(admin_port)) as (process, line):
        data, admin = line.split()[6], f"http://127.0.0.1:{admin_port}"
        assert [httpx.get(f"{at}/metrics").status_code for at in (data, admin)] == [404, 200]
        assert [httpx.get(f"{at}/livez").json()["release"] is None for at in (data, admin)] == [True, False]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_keys_that_cannot_be_used_are_refused_before_the_server_listens(tiny_store: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("keys = []")
    history = ("--history", f"sqlite:///{tmp_path / 'h.db'}")
    with pytest.raises(DataError, match="API keys"):
        main(["--store", str(tiny_store), "--port", "0", "--keys", str(keys), *history])
