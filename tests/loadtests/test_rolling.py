from pathlib import Path

import pytest

from loadtests.rolling import roll
from loadtests.traffic import read_histories, write_histories


@pytest.mark.alone
def test_two_servers_are_replaced_in_turn_and_no_request_fails(tiny_shop: Path, tiny_store: Path, tmp_path: Path) -> None:
    write_histories(tiny_shop / "events.parquet", tmp_path / "histories.jsonl", 20)
    rolled = roll(tiny_store, read_histories(tmp_path / "histories.jsonl"), tmp_path, rate=30.0)
    assert rolled.num_failures == 0
    assert rolled.num_asked > 100
