"""Trains the real rectools for seconds if its environment exists. It is not installed for the tests."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import training_throughput
from benchmarks.training_throughput import Setting, peer
from tests.benchmarks.training_rivals.test_fit import TINY, made
from training.data.read import Data


@pytest.mark.skipif(not made(), reason="the peers' environment is not there: `make bench NAME=quality` makes it")
def test_a_round_counts_what_the_peer_read(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = msgspec.structs.replace(TINY, model="sasrec", loss="softmax", batch=4)
    monkeypatch.setattr(training_throughput, "their_config", lambda _: config)
    monkeypatch.setattr(training_throughput, "WINDOW", config.length)
    monkeypatch.setattr(training_throughput, "DIRECTORY", tmp_path)

    with peer(data, Setting("", config.width, num_best=len(data.item_ids))) as their_round:
        first, second = their_round(1), their_round(3)

    assert (first.steps, first.events, first.positions) == (1, 4 * 20, 4 * 20)
    assert (second.steps, second.events, second.answers) == (3, 3 * 4 * 20, 3 * 4 * 20)
    # Attention 4 D^2 and feed-forward 2 D^2 weights an event, D L^2 pairs a window, D a score; six FLOPs each.
    width = config.width
    assert first.flops == 6 * (6 * width**2 * 80 + width * 4 * 20**2 + width * first.scores)
    assert second.seconds > 0
