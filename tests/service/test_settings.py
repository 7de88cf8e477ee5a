from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.settings import Settings, is_loopback, share_of_cores


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert is_loopback(host)
    assert Settings(store=Path("store"), host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_any_other_address_is_refused_without_keys_unless_insecure(host: str) -> None:
    with pytest.raises(ValidationError, match="--insecure"):
        Settings(store=Path("store"), host=host)
    with pytest.raises(ValidationError, match="keys"):
        Settings(store=Path("store"), admin_host=host, admin_port=9000)
    assert Settings(store=Path("store"), host=host, insecure=True).host == host
    assert Settings(store=Path("store"), host=host, admin_host=host, admin_port=1, keys=Path("keys.toml")).host == host


@pytest.mark.parametrize(
    "wrong",
    [{"port": 65536}, {"port": -1}, {"torch_threads": 0}, {"workers": 0}, {"drain_s": -1}, {"max_body_bytes": 0}, {"host": None}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(store=Path("store"), **wrong)


def test_variables_set_what_the_command_line_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_STORE", "elsewhere")
    monkeypatch.setenv("TWOTOWER_PORT", "9000")
    settings = Settings(port=9001)  # type: ignore[call-arg]
    assert (settings.store, settings.port) == (Path("elsewhere"), 9001)
    assert Settings().port == 9000  # type: ignore[call-arg]


def test_a_bucket_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_STORE", "s3://shop/main")
    assert Settings().store == "s3://shop/main"  # type: ignore[call-arg]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings(store=Path("store")).port = 1


def test_several_processes_divide_the_cores_and_one_leaves_some_to_its_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert [share_of_cores(n) for n in (1, 2, 3, 8, 100)] == [7, 4, 2, 1, 1]
    assert Settings(store=Path("store"), workers=2).torch_threads == 4
    assert Settings(store=Path("store"), workers=2, torch_threads=3).torch_threads == 3


def test_changes_of_items_are_for_one_process() -> None:
    for several in ({"workers": 2}, {"engine": "process"}):
        with pytest.raises(ValidationError, match="leave out --delta, or --workers and --engine"):
            Settings.model_validate({"store": "store", "delta": "sqlite:///delta.db"} | several)


@pytest.mark.parametrize("wrong", [{"admin_port": 8000}, {"admin_port": 7999, "workers": 2}, {"admin_port": 65535, "workers": 2}])
def test_an_admin_port_that_would_be_the_other_port_too_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="--admin-port"):
        Settings(store=Path("store"), port=8000, **wrong)
    assert Settings(store=Path("store"), port=0, admin_port=0).admin_port == 0
    assert Settings(store=Path("store"), port=8000, admin_port=8001, workers=2).admin_port == 8001
