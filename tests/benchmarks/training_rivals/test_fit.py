"""Trains the real rectools for seconds if its environment exists. It is not installed for the tests."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.training_rivals.environment import INSTALLED, REQUIREMENTS, VENV
from benchmarks.training_rivals.job import PeerConfig, PeerJob
from benchmarks.training_rivals.ranker import load_peer, read_report, train_peer
from training.data.read import Data
from training.evaluation.rankers import next_basket, rank
from twotower.artefacts.manifest import sha256

TINY = PeerConfig(model="hstu", width=16, num_layers=1, num_heads=2, length=20, batch=32, loss="sampled_softmax", num_negatives=8)


def made() -> bool:
    return (VENV / INSTALLED).exists() and (VENV / INSTALLED).read_text() == sha256(REQUIREMENTS)


@pytest.mark.skipif(not made(), reason="the peers' environment is not there: `make bench NAME=quality` makes it")
def test_a_peer_trains_and_answers_every_query(data: Data, tmp_path: Path) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)
    validation = next_basket(data.log, data.train_until_ms, data.test_from_ms)

    train_peer(data, PeerJob(config=TINY, minutes=0.05, threads=1), queries, validation, tmp_path / "peer")

    report = read_report(tmp_path / "peer")
    assert report.epochs == len(report.validation) > 0
    assert report.versions["rectools"].startswith("0.19.")
    ranked = rank({"peer": load_peer(tmp_path / "peer", data, queries)}, data.log, queries, data.train_count_N)["peer"]
    assert np.isfinite(ranked.rank_A).all()
    assert len(np.unique(ranked.top10_QK)) > 10
