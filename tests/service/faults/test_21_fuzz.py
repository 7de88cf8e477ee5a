"""Row 21: a fuzzer that watches which ways bodies take finds none that ends in a 5xx."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 30
PATHS = ("/v1/recommend", "/v1/events", "/v1/recommend/batch", "/v1/score", "/v1/similar")
EVENT = {"user_id": "ann", "event_type": "view", "timestamp": 1_735_689_600_000, "item_id": "item-1"}
BODIES = [
    {"user_id": "ann", "num_results": 3, "timestamp": 1_746_057_600_000, "timeout_ms": 5000},
    {"session_id": "s", "events": [EVENT], "history_mode": "replace", "exclude_seen": True, "exclude_event_types": ["view"]},
    {"user_id": "ann", "filter": 'price < 5 and brand in ["a", "b"]', "include_metadata": ["title"], "explain": True},
    {"user_id": "ann", "promotions": [{"name": "p", "filter": "price > 1", "position": 1}], "diversity": 0.5},
    {"user_id": "ann", "candidate_item_ids": ["item-1"], "exclude_item_ids": ["item-2"], "page_token": "aaaa"},
    {"events": [EVENT, EVENT | {"event_id": "e", "properties": {"price_paid": 1.5}, "position": 1}]},
    {"requests": [{"user_id": "ann"}, {"session_id": "s", "events": [EVENT]}]},
    {"user_id": "ann", "item_ids": ["item-1", "item-2"]},
    {"item_id": "item-1", "num_results": 3, "user_id": "ann"},
    {"item": {"title": "tea", "price": 3}, "num_results": 3},
]


@pytest.mark.faults
def test_no_body_that_a_fuzzer_finds_is_answered_with_a_5xx(tiny_store: Path, tmp_path: Path) -> None:
    for number, body in enumerate(BODIES):
        for route in range(len(PATHS)):
            (tmp_path / f"{number}-{route}").write_bytes(bytes([route]) + json.dumps(body).encode())
    inputs = [str(tiny_store), str(tmp_path), str(SECONDS), *PATHS]
    command = [sys.executable, "-m", "tests.service.faults.fuzz", *inputs]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS + 100, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
