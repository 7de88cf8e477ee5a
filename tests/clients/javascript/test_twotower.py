"""The script for browsers: in Node against a real server, and in a real browser that leaves its page."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.browser.chromium import FLAGS, find_chromium
from tests.clients.page_server import PageServer
from tests.clients.trouble import Trouble
from tests.service.faults.processes import Running, until

FOLDER = Path(__file__).parents[3] / "clients" / "javascript"
MAX_BYTES = 3000  # compressed, as web servers send it
NODE, CHROMIUM = shutil.which("node"), find_chromium()
needs_node = pytest.mark.skipif(NODE is None, reason="needs Node.js 18 or newer (Debian: nodejs)")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")


def play(scenario: str, server: str, user: str = "u") -> dict[str, Any]:
    """What a scenario of browserless.mjs tells."""
    environment = os.environ | {"TWOTOWER_MJS": (FOLDER / "twotower.mjs").as_uri()}
    line = [str(NODE), str(Path(__file__).with_name("browserless.mjs")), scenario, server, user]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def events_of(server: Running, user: str) -> list[dict[str, Any]]:
    """The stored events of a user."""
    return list(httpx.get(f"{server.address}/v1/users/{user}").json()["events"])


def test_it_is_small_when_it_is_compressed() -> None:
    assert len(gzip.compress((FOLDER / "twotower.js").read_bytes())) < MAX_BYTES


@needs_node
def test_events_arrive_with_user_session_and_time(server: Running) -> None:
    told = play("delivers", server.address, "js-delivers")

    view, purchase = events_of(server, "js-delivers")
    assert (view["event_type"], view["item_id"], view["value"]) == ("view", "item-1", 2.5)
    assert view["properties"] == {"channel": "wéb 🛒"}
    assert (purchase["event_type"], purchase["item_id"]) == ("purchase", "7")
    assert view["session_id"] == purchase["session_id"]
    assert view["event_id"] != purchase["event_id"]
    assert told == {"result": None, "warnings": [], "answered": 1}


@needs_node
def test_twenty_events_are_sent_at_once(server: Running) -> None:
    assert play("many", server.address, "js-many")["answered"] == 3
    assert len(events_of(server, "js-many")) == 45


@needs_node
@pytest.mark.parametrize("fault", ["refused", "lost", "unheard", "halved", "slow", "bad_gateway", "other_json"])
def test_events_are_sent_until_they_are_acknowledged_and_stored_once(server: Running, trouble: Trouble, fault: Any) -> None:
    trouble.faults.append(fault)
    trouble.retry_after = "0"

    told = play("again", trouble.url, f"js-{fault}")

    assert len(told["warnings"]) == 1
    assert len(events_of(server, f"js-{fault}")) == 1
    assert trouble.seen[0].body == trouble.seen[1].body


@needs_node
def test_an_event_that_the_server_rejects_is_told_on_the_console_and_given_up(server: Running) -> None:
    told = play("rejected", server.address, "js-rejected")

    assert "all 1 events were rejected" in told["warnings"][0][1]
    assert len(events_of(server, "js-rejected")) == 1


@needs_node
def test_an_event_with_a_recommended_item_names_the_answer_and_the_place(server: Running) -> None:
    told = play("attribution", server.address, "js-attribution")

    first, second = events_of(server, "js-attribution")
    assert (first["recommendation_id"], first["position"]) == (told["result"], 2)
    assert (second["recommendation_id"], second["position"]) == (None, None)


@needs_node
def test_a_refused_recommendation_says_why(server: Running) -> None:
    assert "`int` >= 1" in play("refusedRequest", server.address)["result"]


@needs_node
def test_without_consent_nothing_is_kept_or_sent_and_with_it_withdrawn_nothing_is_left(server: Running) -> None:
    told = play("consent", server.address, "js-consent")

    assert told["result"] == {"before": None, "kept": 0, "between": 1, "after": 0}
    assert len(events_of(server, "js-consent")) == 1


@needs_node
def test_do_not_track_and_global_privacy_control_are_respected(trouble: Trouble) -> None:
    assert play("doNotTrack", trouble.url)["result"] == {"ids": [None, None], "kept": 0}
    assert trouble.seen == []


@needs_node
def test_a_browser_that_blocks_storage_still_sends_events_of_one_session(server: Running) -> None:
    play("blockedStorage", server.address, "js-blocked")

    first, second = events_of(server, "js-blocked")
    assert first["session_id"] == second["session_id"]


@needs_node
def test_a_browser_whose_storage_is_full_still_knows_visitor_session_and_what_was_shown(server: Running) -> None:
    told = play("fullStorage", server.address)["result"]

    first, second = told["events"]
    assert (first["user_id"], first["session_id"]) == (second["user_id"], second["session_id"])
    assert (first["recommendation_id"], first["position"]) == (told["answer"], 1)


@needs_node
def test_a_request_of_more_bytes_than_browsers_keep_alive_is_an_ordinary_one(server: Running) -> None:
    assert play("large", server.address)["result"] == [False]


@needs_node
def test_a_failed_recommendation_of_something_between_says_the_status(trouble: Trouble) -> None:
    trouble.faults.append("bad_gateway")
    assert "answered with 502" in play("refusedRequest", trouble.url)["result"]


@needs_node
def test_a_session_ends_after_half_an_hour_without_an_event_and_the_visitor_stays(server: Running) -> None:
    assert play("sessions", server.address)["result"] == {"newSession": True, "sameUser": True}


@needs_node
def test_a_page_that_is_left_sends_what_was_not_acknowledged(server: Running) -> None:
    assert play("leaving", server.address)["result"] == [[f"{server.address}/v1/events", 1]] * 2


@needs_node
def test_with_a_key_a_page_that_is_left_sends_by_fetch_because_a_beacon_carries_no_key(trouble: Trouble) -> None:
    assert play("leavingWithKey", trouble.url)["result"] == 0
    assert len(trouble.seen) == 1


FIRST_PAGE = """<!doctype html><title>shop</title><script src="/twotower.js"></script><script>
const shop = twotower({ url: "SERVER", user: "in a browser", waitMs: 1e6 });
shop.search("rye bread");
shop.recommend({ num_results: 2 }).then((answer) => {
  shop.track("click", answer.items[1].item_id);
  sessionStorage.setItem("answer", answer.recommendation_id);
  location.href = "/second";
});
</script>"""
SECOND_PAGE = """<!doctype html><title>item</title><script type="module">
import twotower from "/twotower.mjs";
const shop = twotower({ url: "SERVER", user: "in a browser" });
shop.track("purchase", "item-1");
await shop.flush();
fetch("/report", { method: "POST", body: JSON.stringify(sessionStorage.getItem("answer")) });
</script>"""


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    """The start of a command that runs a browser."""
    return [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]


@needs_chromium
def test_in_a_browser_the_events_of_a_page_that_is_left_arrive_by_a_beacon(
    server: Running, pages: PageServer, browser: list[str]
) -> None:
    for name, kind in (("twotower.js", "text/javascript"), ("twotower.mjs", "text/javascript")):
        pages.pages[f"/{name}"] = (kind, (FOLDER / name).read_text())
    for path, text in (("/first", FIRST_PAGE), ("/second", SECOND_PAGE)):
        pages.pages[path] = ("text/html", text.replace("SERVER", server.address))

    with subprocess.Popen([*browser, f"{pages.url}/first"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            recommendation_id = pages.reports.get(timeout=60)
            until(lambda: len(events_of(server, "in a browser")) >= 3, 10)
        finally:
            process.kill()

    stored = {event["event_type"]: event for event in events_of(server, "in a browser")}
    assert stored.keys() == {"search", "click", "purchase"}
    assert (stored["click"]["recommendation_id"], stored["click"]["position"]) == (recommendation_id, 2)
    assert stored["search"]["query"] == "rye bread"
    assert len({event["session_id"] for event in stored.values()}) == 1
