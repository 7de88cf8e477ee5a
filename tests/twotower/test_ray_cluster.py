"""A cluster that cannot be used is named, and what to do about it."""

import socket

import pytest

pytest.importorskip("ray", reason="install the extra `ray`")

from twotower.errors import EnvironmentProblem
from twotower.ray_cluster import cluster


def test_an_address_where_no_cluster_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EnvironmentProblem, match=f"no Ray cluster answers at RAY_ADDRESS={address}"), cluster():
        pass
