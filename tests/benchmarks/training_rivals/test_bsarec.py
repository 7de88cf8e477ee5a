import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.training_rivals import bsarec
from benchmarks.training_rivals.bsarec import NUM_LOW, BSARec, FrequencyFilter, low_pass, numbered, query_vectors, samples, train
from benchmarks.training_rivals.export import export
from benchmarks.training_rivals.job import JOB, PeerConfig, PeerJob
from benchmarks.training_rivals.peer_queries import Queries
from benchmarks.training_rivals.ranker import load_peer, read_report
from training.data.read import Data
from training.evaluation.rankers import next_basket

TINY = PeerConfig(model="bsarec", width=8, num_layers=2, num_heads=2, length=20, batch=64, loss="softmax", patience=2)


def test_the_low_pass_keeps_the_lowest_frequencies_of_numpys_fourier_transform() -> None:
    x_LD = np.random.default_rng(0).normal(size=(20, 3))
    spectrum = np.fft.rfft(x_LD, axis=0)
    spectrum[NUM_LOW:] = 0

    kept_LD = low_pass(20, NUM_LOW).double().numpy() @ x_LD

    assert kept_LD == pytest.approx(np.fft.irfft(spectrum, 20, axis=0), abs=1e-5)


def test_the_filter_weighs_high_frequencies_and_reads_a_short_history_as_if_zeros_stood_before_it() -> None:
    filtering = FrequencyFilter(width=3, length=20)
    torch.nn.init.constant_(filtering.root_D, 2.0)
    x_BLD = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))

    filtered_BLD = filtering(x_BLD).detach()

    long_BLD = torch.cat([torch.zeros(1, 14, 3), x_BLD], 1)
    low_BLD = low_pass(20, NUM_LOW) @ long_BLD
    assert torch.allclose(filtered_BLD, (low_BLD + 4 * (long_BLD - low_BLD))[:, -6:], atol=1e-5)


def test_every_prefix_is_a_sample_and_sessions_stay_apart() -> None:
    prefixes, following = samples(np.array([0, 0, 0, 1, 1]), np.array([5, 6, 7, 8, 9]))

    assert [prefix.tolist() for prefix in prefixes] == [[5], [5, 6], [8]]
    assert following.tolist() == [6, 7, 9]


def test_a_history_is_encoded_alike_alone_and_beside_longer_ones() -> None:
    torch.manual_seed(0)
    model = BSARec(TINY, num_items=9).eval()
    short, long = np.array([3, 1]), np.array([2, 5, 9, 4, 4, 7])

    together_BD = model.encode([long, short])

    assert torch.allclose(together_BD[1:], model.encode([short]), atol=1e-5)
    assert torch.allclose(together_BD[:1], model.encode([long]), atol=1e-5)
    assert not torch.allclose(together_BD[0], together_BD[1], atol=1e-2)


def test_a_query_without_known_events_has_a_zero_vector() -> None:
    queries = Queries([np.array([10, 30]), np.zeros(0, np.int64)], [], np.zeros(2, np.int64), [np.array([30]), np.array([10])])

    vectors_QD = query_vectors(BSARec(TINY, num_items=2), numbered(queries, np.array([10, 30])))

    assert vectors_QD[0].abs().sum() > 0
    assert vectors_QD[1].tolist() == [0.0] * TINY.width


def test_it_learns_which_item_follows_and_keeps_the_best_epoch() -> None:
    torch.manual_seed(0)
    config = msgspec.structs.replace(TINY, learning_rate=0.02, dropout=0.0, patience=10)
    model = BSARec(config, num_items=30)
    circle = np.tile(np.arange(1, 31), 2)  # each item is followed by the next, and the last by the first
    sessions = np.stack([circle[start : start + 6] for start in range(30)])
    validation = Queries([s[:4] for s in sessions], [], np.zeros(30, np.int64), [s[4:5] for s in sessions])

    scores, steps = train(
        model, PeerJob(config=config, minutes=5, threads=1), *samples(np.repeat(np.arange(30), 6), sessions.ravel()), validation
    )

    assert scores[0] < 0.7 < 0.95 < max(scores)
    assert steps == 3 * len(scores)  # 150 prefixes in batches of 64
    assert bsarec.score(model, validation) == max(scores)
    assert len(scores) - 1 - int(np.argmax(scores)) == config.patience


def test_it_trains_for_its_time_and_answers_every_query(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:40]
    validation = next_basket(data.log, data.train_until_ms, data.test_from_ms)[:40]
    job = PeerJob(config=TINY, minutes=0.001, threads=1)
    (tmp_path / JOB).write_bytes(msgspec.json.encode(job))
    export(data, queries, validation, TINY.length, job.seed, tmp_path)
    monkeypatch.setattr(sys, "argv", ["bsarec", str(tmp_path)])

    assert bsarec.main() == 0

    report = read_report(tmp_path)
    assert report.epochs == len(report.validation) > 0
    assert report.steps > 0
    assert load_peer(tmp_path, data, queries).vectors_ND.shape == (len(data.item_ids), TINY.width)
