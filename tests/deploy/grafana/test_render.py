"""The drawing of the dashboard, from a Prometheus that is made up here."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from deploy.grafana.render import DASHBOARD, main, spoken


class Answers(ThreadingHTTPServer):
    """Answers every query with two series, and notes the queries."""

    daemon_threads = True

    def __init__(self) -> None:
        self.queries: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        self.server.queries.append(asked["query"][0])
        end = float(asked["end"][0])
        series = [{"metric": {"instance": name}, "values": [[end - n, str(n)] for n in range(60, 0, -1)]} for name in "ab"]
        body = json.dumps({"data": {"result": series}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prometheus() -> Iterator[Answers]:
    server = Answers()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_every_query_of_the_dashboard_is_asked_and_the_picture_is_small(prometheus: Answers, tmp_path: Path) -> None:
    out = tmp_path / "dashboard.png"
    assert main(["--prometheus", f"http://127.0.0.1:{prometheus.server_port}", "--out", str(out)]) == 0
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len(prometheus.queries) == sum(len(panel.get("targets", [])) for panel in panels)
    assert all("$" not in query for query in prometheus.queries)
    with Image.open(out) as picture:
        assert picture.size[0] == 1400
    assert out.stat().st_size < 300_000


def test_a_prometheus_that_does_not_answer_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--prometheus", "http://127.0.0.1:9", "--out", str(tmp_path / "x.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Prometheus at http://127.0.0.1:9 does not answer: ")
    assert main(["--prometheus", "file:///etc", "--out", str(tmp_path / "x.png")]) == 2
    assert main(["--dashboard", str(tmp_path / "none.json"), "--out", str(tmp_path / "x.png")]) == 2


def test_numbers_are_written_with_their_unit() -> None:
    said = [
        spoken(0.0125, "s"),
        spoken(7200, "s"),
        spoken(0.25, "percentunit"),
        spoken(3 * 2**30, "bytes"),
        spoken(12.34, "reqps"),
    ]
    assert said == ["12.5 ms", "2 h", "25 %", "3 GB", "12.3/s"]
