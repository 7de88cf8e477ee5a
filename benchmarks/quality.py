"""Quality on real data: our model beside counting baselines and rectools' SASRec and HSTU, with the same split and protocol.

Complete Journey: every basket of December, rolling history, the whole catalogue ranked, past items kept. Amazon Beauty:
leave-one-out, the whole catalogue ranked, past items masked, several seeds. The peers get as much wall-clock time as our
training took and as many threads; their best epoch is chosen on a sample of the validation part. Only our model reads the weekly
signals, because the peers and baselines cannot. Finished parts are kept in build/bench/quality/ and reused until something that
they depend on changes; delete the directory to begin anew.

N: items of the catalogue
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from benchmarks.report import DIRECTORY, Row, write_report
from benchmarks.training_rivals.corpus import Corpus, prepared, run_twotower
from benchmarks.training_rivals.counters import Mixture, nearest_neighbours
from benchmarks.training_rivals.job import PeerConfig, PeerJob, hstu_baskets, sasrec_baskets, sasrec_sequences
from benchmarks.training_rivals.kept_parts import RANKING_CODE, code, kept_rankings, key_of, made_on
from benchmarks.training_rivals.ranker import load_peer, train_peer
from benchmarks.training_rivals.rows import beauty_rows, journey_rows
from training.data.popularity_snapshots import take_snapshots
from training.data.read import Data, read_data
from training.evaluation.metrics import Rankings
from training.evaluation.rankers import Model, PersonalFrequency, Popularity, Query, Ranker, leave_one_out, next_basket, rank
from training.evaluation.splits import sample
from training.recipes.recipes import RECIPES
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.model.catalogue import embed_catalogue
from twotower.progress import say, step

OUT = DIRECTORY / "quality"
JOURNEY = OUT / "data" / "complete-journey"
VALIDATION_ANSWERS = 10_000  # on which a peer's best epoch is chosen
HALF_LIFE_DAYS = 14.0  # of the popularity in the counting baselines
NO_DECAY_DAYS = 36_500.0  # leave-one-out files have no times, so popularity counts all events
SEQUENCE_FILES = ("Beauty.txt", "Beauty_item2attributes.json")
WANTED = f"--beauty DIR with {' and '.join(SEQUENCE_FILES)} (github.com/RUCAIBox/CIKM2020-S3Rec, data)"


@dataclass(frozen=True)
class Part:
    """A corpus with the queries of its test part, which every ranker answers."""

    corpus: Corpus
    data: Data
    queries: list[Query]
    validation: list[Query]


@dataclass(frozen=True)
class Peers:
    """Whether to train the peers, and how long. None is as long as our training took, in whole minutes."""

    wanted: bool
    minutes: float | None

    def job(self, config: PeerConfig, our_train_s: float) -> PeerJob:
        """The training job of a peer, with as much time and as many threads as ours."""
        minutes = self.minutes if self.minutes is not None else math.ceil(our_train_s / 60)
        return PeerJob(config=config, minutes=minutes, threads=torch.get_num_threads())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report. Exit status 1 when a figure misses its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=main.__doc__)
    parser.add_argument("--only", choices=["cj", "beauty"], help="one corpus alone")
    parser.add_argument("--bundle", type=Path, help="evaluate this bundle on Complete Journey instead of training one")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="train SASRec and HSTU too")
    parser.add_argument("--peer-minutes", type=float, help="time for each peer (default: as long as our training took)")
    parser.add_argument("--seeds", type=int, default=3, help="number of our runs on Beauty")
    parser.add_argument("--beauty", type=Path, metavar="DIR", help=f"directory that holds {' and '.join(SEQUENCE_FILES)}")
    args = parser.parse_args(argv)
    if args.only == "beauty" and args.beauty is None:
        parser.error(f"--only beauty needs {WANTED}")
    peers = Peers(args.peers, args.peer_minutes)
    rows: list[Row] = []
    if args.only != "beauty":
        rows += complete_journey(args.bundle, peers)
    if args.only != "cj" and args.beauty is not None:
        rows += beauty(args.beauty, args.seeds, peers)
    elif args.only != "cj":
        say(f"Beauty is left out: give {WANTED}")
    write_report("quality", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def complete_journey(bundle_path: Path | None, peers: Peers) -> list[Row]:
    """The rows of Complete Journey."""
    corpus = prepared(JOURNEY, "complete-journey")
    bundle = load_bundle(bundle_path or trained("complete_journey", corpus, 0))
    say(f"evaluating {bundle.manifest.id}")
    part = journey_part(corpus, bundle)
    counted = replace(part.data, snapshots=take_snapshots(part.data.log, len(part.data.item_ids), (HALF_LIFE_DAYS,)))
    snapshots = counted.snapshots
    rankers: dict[str, Callable[[], Ranker]] = {
        "popularity": lambda: Popularity(snapshots),
        "personal_frequency": lambda: PersonalFrequency(snapshots),
        "mixture": lambda: Mixture(snapshots),
        "tifu_knn": lambda: nearest_neighbours(counted.log, counted.test_from_ms, snapshots),
    }
    rankings = {"ours": our_rankings(part, bundle)}
    for name, make in rankers.items():
        rankings[name] = ranked(part, name, key_of(str(HALF_LIFE_DAYS), code("benchmarks/training_rivals/counters.py")), make)
    if peers.wanted:
        for config in (sasrec_baskets(), hstu_baskets()):
            job = peers.job(config, training_s(bundle))
            rankings[config.model] = peer_rankings(replace(part, data=counted), job)
    return journey_rows(rankings, len(part.data.item_ids), training_s(bundle) / 60)


def beauty(files: Path, num_seeds: int, peers: Peers) -> list[Row]:
    """The rows of Amazon Beauty."""
    sequences, attributes = (files / name for name in SEQUENCE_FILES)
    corpus = prepared(OUT / "data" / "beauty", "leave-one-out", "--sequences", sequences, "--attributes", attributes)
    bundles = [load_bundle(trained("leave_one_out", corpus, seed)) for seed in range(num_seeds)]
    part = sequence_part(corpus, bundles[0])
    snapshots = take_snapshots(part.data.log, len(part.data.item_ids), (NO_DECAY_DAYS,))
    others = {"popularity": ranked(part, "popularity", str(NO_DECAY_DAYS), lambda: Popularity(snapshots))}
    seconds = [training_s(bundle) for bundle in bundles]
    if peers.wanted:
        others["sasrec"] = peer_rankings(part, peers.job(sasrec_sequences(), max(seconds)))
    ours = [our_rankings(part, bundle) for bundle in bundles]
    return beauty_rows(ours, others, len(part.data.item_ids), max(seconds) / 60)


def trained(recipe: str, corpus: Corpus, seed: int) -> Path:
    """The bundle of a recipe and seed, trained in a separate process if it does not exist. A killed run is resumed."""
    config = msgspec.json.encode(RECIPES[recipe]()).decode()
    bundle = OUT / "bundles" / f"{recipe}-seed{seed}-{key_of(corpus.fingerprint, config)}"
    if bundle.exists():
        say(f"reused {bundle}, of {made_on(bundle)}: delete it when the training code has changed since")
    else:
        data = ("--events", corpus.events, "--items", corpus.items, "--schema", corpus.schema)
        signals = ("--signals", corpus.signals) if corpus.signals else ()
        run_twotower("train", recipe, *data, *signals, "--seed", str(seed), "--out", bundle, "--resume")
    return bundle


def training_s(bundle: Bundle) -> float:
    """Wall-clock seconds of the bundle's training."""
    return float(bundle.metrics["training"]["seconds"])


def journey_part(corpus: Corpus, bundle: Bundle) -> Part:
    """Next baskets: December is the test part; a sample of November is for choosing the peers' best epoch."""
    data = read(corpus, bundle)
    november = next_basket(data.log, data.train_until_ms, data.test_from_ms)
    validation = sample(np.random.default_rng(0), november, VALIDATION_ANSWERS)
    return Part(corpus, data, next_basket(data.log, data.test_from_ms, data.end_ms), validation)


def sequence_part(corpus: Corpus, bundle: Bundle) -> Part:
    """Leave-one-out: the last event of every user is the test part; a sample of those before is for choosing epochs."""
    data = read(corpus, bundle)
    before = leave_one_out(data.log, data.train_until_ms, data.test_from_ms)
    validation = sample(np.random.default_rng(0), before, VALIDATION_ANSWERS)
    return Part(corpus, data, leave_one_out(data.log, data.test_from_ms, data.end_ms), validation)


def read(corpus: Corpus, bundle: Bundle) -> Data:
    """The corpus, read for the bundle's model."""
    towers, config = bundle.towers, bundle.towers.config
    return read_data(
        corpus.events,
        corpus.items,
        towers.schema,
        config.popularity_half_lives_days,
        config.model.context_table_rows,
        config.model.context_spec,
        corpus.signals if towers.schema.signals else None,
    )


def our_rankings(part: Part, bundle: Bundle) -> Rankings:
    """The rankings of a bundle's model for all queries."""

    def model() -> Ranker:
        towers, config = bundle.towers, bundle.towers.config.model
        with step("embed items", total=len(part.data.item_ids), unit="items") as work:
            parts = embed_catalogue(
                part.corpus.items, towers.schema.items, towers.embedder, config.item_spec, config.table_rows, work.advance
            )
            vectors_ND = torch.from_numpy(np.concatenate([vectors for _, vectors in parts]))
        return Model(towers.contextualizer, config, vectors_ND, part.data.log, part.data.snapshots)

    return ranked(part, f"ours-{bundle.manifest.id}", code("twotower"), model)


def peer_rankings(part: Part, job: PeerJob) -> Rankings:
    """The rankings of a peer for all queries. Trains the peer if that has not been done."""
    encoded = msgspec.json.encode(job).decode()
    made_by = code(
        "benchmarks/training_rivals/fit.py", "benchmarks/training_rivals/export.py", "benchmarks/training_rivals/requirements.txt"
    )
    key = key_of(part.corpus.fingerprint, encoded, made_by)
    directory = OUT / "peers" / f"{part.corpus.name}-{job.config.model}-{key}"
    if directory.exists():
        say(f"reused {directory}, of {made_on(directory)}")
    else:
        train_peer(part.data, job, part.queries, part.validation, directory)
    return ranked(part, job.config.model, key, lambda: load_peer(directory, part.data, part.queries))


def ranked(part: Part, name: str, made_of: str, make: Callable[[], Ranker]) -> Rankings:
    """The rankings of one ranker. `made_of` names what it depends on besides the data and the ranking code."""
    key = key_of(part.corpus.fingerprint, made_of, code(*RANKING_CODE))

    def compute() -> Rankings:
        ranker = make()
        with step(f"rank {name}", total=len(part.queries), unit="queries") as work:
            return rank({name: ranker}, part.data.log, part.queries, part.data.train_count_N, work.advance)[name]

    return kept_rankings(OUT / "rankings" / part.corpus.name / f"{name}-{key}.npz", compute)


if __name__ == "__main__":
    sys.exit(main())
