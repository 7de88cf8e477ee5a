"""A Ray cluster to compute on: the one that RAY_ADDRESS names, or one of this machine."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import ray

from twotower.errors import EnvironmentProblem

OBJECT_STORE_BYTES = 2**29  # of a cluster started here; results wait in it until they are read


@contextmanager
def cluster() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or to one started on this machine for the time of the block.

    EnvironmentProblem when it cannot be reached, has another version, or does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone outside
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_answer(address)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        own = {"object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": directory, "include_dashboard": False}
        try:
            with _mute():
                ray.init(address or "local", **quiet, **({} if address else own))
        except (ConnectionError, RuntimeError) as error:
            raise EnvironmentProblem(
                f"Ray cannot be used (RAY_ADDRESS is {address or 'not set'}): {error}. Are Ray's version, and its token where "
                f"RAY_AUTH_MODE asks for one, the cluster's?"
            ) from error
        try:
            with redirect_stdout(sys.stderr):  # Ray prints about dead workers on stdout, which belongs to results
                yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """EnvironmentProblem when nothing listens at host:port, because Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise EnvironmentProblem(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}). Start it, or unset the variable: "
            f"then one is started here."
        ) from error


@contextmanager
def _mute() -> Iterator[None]:
    """Silence stderr: Ray's C++ libraries write to it whatever the logging settings are."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
