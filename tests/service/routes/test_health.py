"""What balancers, supervisors and Prometheus ask, over HTTP."""

import threading
import time
from collections.abc import Callable

from service.release.loaded import LoadedRelease
from tests.service.conftest import Client
from tests.service.routes.busy import keep_busy


def test_a_stuck_engine_is_neither_live_nor_ready(connect: Callable[..., Client]) -> None:
    client = connect(heartbeat_limit_s=1.0)
    assert client.get("/livez").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 200
    gate = threading.Event()
    blocker = client.run(keep_busy(client, gate))
    time.sleep(1.3)
    for path in ("/livez", "/readyz"):
        assert client.get(path).status_code == 503
    gate.set()
    client.run(blocker)


def test_a_live_server_says_which_release_it_serves(client: Client, release: LoadedRelease) -> None:
    answer = client.get("/livez").json()
    assert (answer["status"], answer["release"]) == ("ok", release.id)
    assert 0 <= answer["heartbeat_age_s"] < 10


def test_a_server_that_is_leaving_lives_but_is_not_ready(client: Client) -> None:
    client.context.readiness.leaving = "the server is stopping"
    refused = client.get("/readyz")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert refused.json()["error"]["message"] == "the server is stopping"
    assert client.get("/livez").status_code == 200


def test_metrics_are_in_the_format_of_prometheus(client: Client) -> None:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE twotower_queue_depth gauge" in response.text
