"""The tiny shop and an untrained bundle in place of the corpora and of half an hour of training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality import TWO_PERCENT, Peers, Study
from benchmarks.report import Row
from benchmarks.training_rivals.corpus import Corpus
from benchmarks.training_rivals.job import ITEM_ROWS, ITEM_VECTORS, QUERY_VECTORS, REPORT, PeerJob, PeerReport
from training.data.read import Data
from training.evaluation.rankers import Query, next_basket
from twotower.artefacts.bundle import Bundle, load_bundle

NO_PEERS = Peers(wanted=False, minutes=None)


class Peer:
    """In place of training one: random vectors for every item and query."""

    def __init__(self) -> None:
        self.jobs: list[PeerJob] = []

    def __call__(self, data: Data, job: PeerJob, queries: Sequence[Query], validation: Sequence[Query], out: Path) -> None:
        assert all(q.now_ms >= data.test_from_ms for q in queries)
        assert all(data.train_until_ms <= q.now_ms < data.test_from_ms for q in validation)
        self.jobs.append(job)
        out.mkdir(parents=True)
        rng = np.random.default_rng(0)
        np.save(out / ITEM_ROWS, np.arange(len(data.item_ids)))
        np.save(out / ITEM_VECTORS, rng.normal(size=(len(data.item_ids), 4)).astype(np.float32))
        np.save(out / QUERY_VECTORS, rng.normal(size=(len(queries), 4)).astype(np.float32))
        report = PeerReport(parameters=500, epochs=1, steps=1, train_s=60.0, validation=(0.1,), versions={})
        (out / REPORT).write_bytes(msgspec.json.encode(report))


@pytest.fixture
def peer(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    def prepared(*_: object) -> Corpus:
        return Corpus(tiny_shop)

    def trained(*_: object) -> Path:
        return tiny_bundle

    def training_s(_: Bundle) -> float:
        return 90.0

    def parameters(_: Bundle) -> dict[str, float]:
        return {"embedder": 20, "contextualizer": 980, "embedder_share": 0.02}

    peer = Peer()
    monkeypatch.setattr("twotower.metrics.ranking.BOOTSTRAP_DRAWS", 20)
    monkeypatch.setattr(quality, "OUT", tmp_path)
    monkeypatch.setattr(quality, "prepared", prepared)
    monkeypatch.setattr(quality, "trained", trained)
    monkeypatch.setattr(quality, "training_s", training_s)
    monkeypatch.setattr(quality, "parameters", parameters)
    monkeypatch.setattr(quality, "train_peer", peer)
    return peer


def journey(peers: Peers, num_seeds: int = 1) -> dict[str, Row]:
    return {row.metric: row for row in quality.complete_journey(None, num_seeds, peers).rows()}


def test_the_report_holds_ours_the_counters_and_the_peers(peer: Peer) -> None:
    rows = journey(Peers(wanted=True, minutes=None))

    for name in ("cj_ndcg10", "cj_recall10", "cj_set_loss", "cj_ndcg10_margin", "cj_train_min"):
        assert rows[name].must is not None
    counters = ("popularity", "personal_frequency", "mixture", "tifu_knn", "item_knn", "ease", "ease_recent")
    for other in (*counters, "sasrec", "hstu"):
        assert rows[f"cj_{other}_ndcg10"].must is None
    assert rows["cj_train_min"].value == 1.5
    assert rows["cj_parameters"].value == 1000
    assert rows["cj_sasrec_parameters"].value == 500
    assert not rows["cj_ndcg10_margin"].meets_must  # an untrained model does not beat a counter
    assert rows["cj_tifu_knn_ndcg10"].value > rows["cj_sasrec_ndcg10"].value


def test_the_journey_is_reported_over_seeds_when_there_are_several(peer: Peer) -> None:
    rows = journey(NO_PEERS, num_seeds=2)

    assert rows["cj_seeds"].value == 2
    assert rows["cj_ndcg10"].value == rows["cj_ndcg10_seed1"].value
    assert "cj_sasrec_ndcg10" not in rows


def test_peers_get_the_whole_minutes_that_our_training_took_unless_told(peer: Peer) -> None:
    journey(Peers(wanted=True, minutes=None))
    journey(Peers(wanted=True, minutes=0.5, seeds=2))

    asked = [(job.config.model, job.minutes, job.seed) for job in peer.jobs]
    assert asked[:2] == [("sasrec", 2, 0), ("hstu", 2, 0)]
    assert asked[2:] == [("sasrec", 0.5, 0), ("sasrec", 0.5, 1), ("hstu", 0.5, 0), ("hstu", 0.5, 1)]


def test_what_was_finished_is_not_done_again(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers(wanted=True, minutes=1.0)
    first = journey(peers)

    def never(*_: object) -> None:
        raise AssertionError("ranked again")

    monkeypatch.setattr(quality, "rank", never)

    assert journey(peers) == first
    assert len(peer.jobs) == 2


def test_another_bundle_is_ranked_anew(peer: Peer, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    part = quality.read_part(Corpus(tiny_shop), 14.0, next_basket)
    bundle = load_bundle(tiny_bundle)
    other = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, id="bundle-0123456789ab"))

    for each in (bundle, bundle, other):
        quality.our_rankings(part, each)

    names = {path.name for path in (tmp_path / "rankings").rglob("*.npz")}
    assert len(names) == 2
    assert sum("0123456789ab" in name for name in names) == 1


def test_leave_one_out_is_reported_over_seeds_at_both_shares(peer: Peer, tmp_path: Path) -> None:
    rows = {row.metric: row for row in quality.beauty(tmp_path, 2, Peers(wanted=True, minutes=None)).rows()}

    assert rows["beauty_recall10"].value == rows["beauty_recall10_seed0"].value == rows["beauty_recall10_seed1"].value
    assert rows["beauty_two_percent_recall10_std"].value == 0.0
    assert rows["beauty_train_min"].value == 1.5
    assert [(job.config.model, job.config.loss) for job in peer.jobs] == [
        ("sasrec", "sampled_softmax"),
        ("sasrec", "softmax"),
        ("bsarec", "softmax"),
    ]
    assert {(job.config.length, job.minutes) for job in peer.jobs} == {(50, 2)}
    for other in ("popularity", "item_knn", "ease", "sasrec_softmax", "bsarec"):
        assert not math.isnan(rows[f"beauty_{other}_ndcg10"].value)


def test_a_part_is_made_alone(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a part is no report")

    monkeypatch.setattr(quality, "write_report", never)

    assert quality.main(["--only", "cj", "--part", "hstu", "--part", "popularity", "--peer-minutes", "3"]) == 0

    assert [job.config.model for job in peer.jobs] == ["hstu"]
    assert {path.name.partition("-")[0] for path in (tmp_path / "rankings").rglob("*.npz")} == {"hstu", "popularity"}


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--only", "cj", "--part", "gru4rec"])
    assert "there is no part 'gru4rec'; there are ours, popularity" in capsys.readouterr().err


def test_a_recipe_is_trained_once_for_each_seed(tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(*arguments: str | Path) -> None:
        commands.append([str(a) for a in arguments])
        Path(arguments[arguments.index("--out") + 1]).mkdir(parents=True)

    monkeypatch.setattr(quality, "OUT", tmp_path)
    monkeypatch.setattr(quality, "run_twotower", run)

    bundles = [quality.trained("complete_journey", Corpus(tiny_shop), seed) for seed in (0, 1, 0)]
    small = quality.trained("complete_journey", Corpus(tiny_shop), 0, TWO_PERCENT)

    assert bundles[0] == bundles[2] != bundles[1]
    assert small not in bundles
    assert [c[c.index("--seed") + 1] for c in commands] == ["0", "1", "0"]
    assert commands[2][commands[2].index("--embedder-share") + 1] == "0.02"
    assert commands[0][:4] == ["train", "complete_journey", "--events", str(tiny_shop / "events.parquet")]
    assert "--resume" in commands[0]


def test_beauty_alone_needs_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--only", "beauty"])
    assert "Beauty.txt" in capsys.readouterr().err


@pytest.mark.parametrize(("reached", "status"), [(0.24, 0), (0.2, 1)])
def test_a_missed_must_fails_the_run(reached: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(metric="cj_ndcg10", value=reached, unit="", better="higher", must=0.233)

    def complete_journey(bundle: Path | None, num_seeds: int, peers: Peers) -> Study:
        assert (bundle, num_seeds) == (tmp_path, 2)
        assert peers == Peers(wanted=False, minutes=3.0)
        return Study({}, {}, {}, lambda *_: [row])

    written: list[object] = []
    monkeypatch.setattr(quality, "complete_journey", complete_journey)
    monkeypatch.setattr(quality, "write_report", lambda name, rows: written.append((name, rows)))

    options = ["--only", "cj", "--no-peers", "--peer-minutes", "3", "--cj-seeds", "2", "--bundle", str(tmp_path)]
    assert quality.main(options) == status
    assert written == [("quality", [row])]
