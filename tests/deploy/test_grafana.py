"""Dashboards of Grafana and what it reads at its start, as files: nothing here runs Grafana."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deploy.promql import DEPLOY, asked, known, unknown

GRAFANA = DEPLOY / "grafana"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "twotower.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
(SOURCE,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]


def queries(panel: dict[str, Any]) -> list[str]:
    """What a panel asks, with the variables that Grafana replaces replaced."""
    return [t["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*") for t in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_metric_and_label_of_a_panel_is_there(panel: dict[str, Any], tmp_path: Path) -> None:
    there = known(tmp_path)
    assert [name for query in queries(panel) for name in unknown(query, there)] == []
    assert all("$" not in query for query in queries(panel))


def test_the_dashboard_shows_every_metric_that_the_alerts_look_at() -> None:
    shown = {one.metric for panel in PANELS for query in queries(panel) for one in asked(query)}
    for subject in (
        "queue_depth",
        "user_cache",
        "circuit_state",
        "release_info",
        "embed_gate",
        "drift_retrain",
        "nightly_step_refused",
        "nightly_heartbeat_timestamp_seconds",
        "follow_ups_total",
        "history_errors_total",
    ):
        assert f"twotower_{subject}" in shown
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        *("Requests", "Stages", "Queue and batches", "Caches", "Histories in Redis", "Releases", "Nights", "Quality", "Resources")
    ]


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_panels_ask_the_source_that_is_provided() -> None:
    sources = [panel["datasource"] for panel in PANELS] + [t["datasource"] for panel in PANELS for t in panel["targets"]]
    assert all(source == {"type": SOURCE["type"], "uid": SOURCE["uid"]} for source in sources)
    host, _, port = SOURCE["url"].removeprefix("http://").partition(":")
    assert host in COMPOSE["services"]
    assert port == "9090"


def test_grafana_finds_its_files_where_compose_mounts_them() -> None:
    grafana = COMPOSE["services"]["grafana"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "twotower.yaml").read_text())["providers"]
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / "dashboards" / home.name).is_file()
