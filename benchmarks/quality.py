"""Quality on real data: our model beside counters and the field's best, with the same split and protocol.

Complete Journey: every basket of December, rolling history, the whole catalogue ranked, past items kept. Amazon Beauty:
leave-one-out, the whole catalogue ranked, past items masked. There our recipe is trained once as it is, and once with an
embedder of 2 % of the parameters. The peers get as much wall-clock time as our training took and as many threads; their best
epoch is chosen on a sample of the validation part. Only our model reads the weekly signals, because the peers and counters
cannot. Finished parts are kept in build/bench/quality/ and reused until something that they depend on changes; delete the
directory to begin anew. `--part NAME` makes one part and no report, so that parts can be made one by one or side by side.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import torch

from benchmarks.report import DIRECTORY, Row, write_report
from benchmarks.training_rivals.corpus import Corpus, prepared, run_twotower
from benchmarks.training_rivals.counters import Mixture, nearest_neighbours
from benchmarks.training_rivals.item_to_item import (
    ItemToItem,
    SharedUsers,
    TimesRecent,
    ease,
    item_neighbours,
    recent_counts,
    shared_users,
)
from benchmarks.training_rivals.job import BASKET_PEERS, SEQUENCE_PEERS, PeerConfig, PeerJob, PeerReport
from benchmarks.training_rivals.kept_parts import RANKING_CODE, code, kept_rankings, key_of, made_on
from benchmarks.training_rivals.ranker import load_peer, program_of, read_report, train_peer
from benchmarks.training_rivals.rows import Runs, beauty_rows, journey_rows
from training.data.event_log import EventLog
from training.data.read import Data, read_data
from training.evaluation.metrics import Rankings
from training.evaluation.rankers import Model, PersonalFrequency, Popularity, Query, Ranker, leave_one_out, next_basket, rank
from training.evaluation.splits import sample
from training.recipes.recipes import RECIPES
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.data.schema import load_schema
from twotower.model.catalogue import embed_catalogue
from twotower.progress import say, step

OUT = DIRECTORY / "quality"
JOURNEY = OUT / "data" / "complete-journey"
VALIDATION_ANSWERS = 10_000  # on which a peer's best epoch is chosen
HALF_LIFE_DAYS = 14.0  # of the popularity in the counters
NO_DECAY_DAYS = 36_500.0  # leave-one-out files have no times, so popularity counts all events
CONTEXT_ROWS = 256  # hash table rows of the event log's context, which no counter or peer reads
JOURNEY_ITEMS = 20  # EASE and item-kNN count items with so many training events
JOURNEY_PENALTY = 300.0  # of EASE; finds the most new items of 300, 1,000, 3,000 and 10,000 on 4,000 baskets of November
SEQUENCE_PENALTY = 100.0  # of EASE; the best of 20, 100 and 500 on a quarter of Beauty's validation part
TWO_PERCENT = ("--embedder", "mlp", "--embedder-share", "0.02")  # the smallest table of `bag` is larger than 2 %
SEQUENCE_FILES = ("Beauty.txt", "Beauty_item2attributes.json")
WANTED = f"--beauty DIR with {' and '.join(SEQUENCE_FILES)} (github.com/RUCAIBox/CIKM2020-S3Rec, data)"
COUNTERS_CODE, ITEMS_CODE = "benchmarks/training_rivals/counters.py", "benchmarks/training_rivals/item_to_item.py"


@dataclass(frozen=True)
class Part:
    """A corpus with the queries of its test part, which every ranker answers, and a validation sample for the peers."""

    corpus: Corpus
    data: Data
    queries: list[Query]
    validation: list[Query]


@dataclass(frozen=True)
class Peers:
    """Whether to train the peers, how long and with how many seeds. No minutes: as long as our training, in whole minutes."""

    wanted: bool
    minutes: float | None
    seeds: int = 1

    def jobs(self, config: PeerConfig, our_train_min: Callable[[], float]) -> list[PeerJob]:
        """A peer's training jobs, each with as much time and as many threads as ours."""
        minutes = self.minutes if self.minutes is not None else math.ceil(our_train_min())
        threads = torch.get_num_threads()
        return [PeerJob(config=config, minutes=minutes, threads=threads, seed=seed) for seed in range(self.seeds)]


Makers = Mapping[str, Callable[[], Runs]]


@dataclass(frozen=True)
class Study:
    """What is compared on a corpus, by name. Each part is made when it is called, or read if it was made before."""

    ours: Makers
    counters: Makers
    peers: Makers
    rows_of: Callable[[Mapping[str, Runs], Mapping[str, Runs], Mapping[str, Runs]], list[Row]]

    @property
    def parts(self) -> Makers:
        """All parts."""
        return {**self.ours, **self.counters, **self.peers}

    def rows(self) -> list[Row]:
        """The rows of the report, for which all parts are made."""
        return self.rows_of(all_of(self.ours), all_of(self.counters), all_of(self.peers))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report. Exit status 1 when a figure misses its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=main.__doc__)
    parser.add_argument("--only", choices=["cj", "beauty"], help="one corpus alone")
    parser.add_argument("--part", action="append", metavar="NAME", help="make this part alone, without a report; repeatable")
    parser.add_argument("--bundle", type=Path, help="evaluate this bundle on Complete Journey instead of training one")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="train the peers too")
    parser.add_argument("--peer-minutes", type=float, help="time for each peer (default: as long as our training took)")
    parser.add_argument("--peer-seeds", type=int, default=1, help="number of runs of each peer")
    parser.add_argument("--seeds", type=int, default=3, help="number of our runs on Beauty")
    parser.add_argument("--cj-seeds", type=int, default=1, help="number of our runs on Complete Journey")
    parser.add_argument("--beauty", type=Path, metavar="DIR", help=f"directory that holds {' and '.join(SEQUENCE_FILES)}")
    args = parser.parse_args(argv)
    if args.only == "beauty" and args.beauty is None:
        parser.error(f"--only beauty needs {WANTED}")
    peers = Peers(args.peers, args.peer_minutes, args.peer_seeds)
    studies = [complete_journey(args.bundle, args.cj_seeds, peers)] if args.only != "beauty" else []
    if args.only != "cj" and args.beauty is not None:
        studies.append(beauty(args.beauty, args.seeds, peers))
    elif args.only != "cj":
        say(f"Beauty is left out: give {WANTED}")
    if args.part:
        there = [name for study in studies for name in study.parts]
        if unknown := [name for name in args.part if name not in there]:
            parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(dict.fromkeys(there))}")
        for study in studies:
            all_of({name: make for name, make in study.parts.items() if name in args.part})
        return 0
    rows = [row for study in studies for row in study.rows()]
    write_report("quality", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def all_of(makers: Makers) -> dict[str, Runs]:
    """Make all of them."""
    return {name: make() for name, make in makers.items()}


def complete_journey(bundle: Path | None, num_seeds: int, peers: Peers) -> Study:
    """Complete Journey: next baskets, with December as the test part."""
    corpus = prepared(JOURNEY, "complete-journey")
    part = read_part(corpus, HALF_LIFE_DAYS, next_basket)
    data, snapshots = part.data, part.data.snapshots

    def shared() -> SharedUsers:
        return shared_users(data.log, data.train_until_ms, len(data.item_ids), JOURNEY_ITEMS)

    @cache  # because it takes a minute and two counters rank by it
    def fitted() -> ItemToItem:
        return ease(shared(), snapshots, JOURNEY_PENALTY)

    def times_recent() -> Ranker:
        return TimesRecent(fitted(), recent_counts(data.log, fitted().rows_K, len(data.item_ids)))

    counting = key_of(str(HALF_LIFE_DAYS), code(COUNTERS_CODE))
    pairs = key_of(str(HALF_LIFE_DAYS), code(ITEMS_CODE), str(JOURNEY_ITEMS), str(JOURNEY_PENALTY))
    counters: dict[str, tuple[str, Callable[[], Ranker]]] = {
        "popularity": (counting, lambda: Popularity(snapshots)),
        "personal_frequency": (counting, lambda: PersonalFrequency(snapshots)),
        "mixture": (counting, lambda: Mixture(snapshots)),
        "tifu_knn": (counting, lambda: nearest_neighbours(data.log, data.test_from_ms, snapshots)),
        "item_knn": (pairs, lambda: item_neighbours(shared(), snapshots)),
        "ease": (pairs, fitted),
        "ease_recent": (pairs, times_recent),
    }

    @cache
    def ours() -> Runs:
        return our_runs(part, [bundle] if bundle else [trained("complete_journey", corpus, seed) for seed in range(num_seeds)])

    return Study({"ours": ours}, counter_runs(part, counters), peer_runs(part, BASKET_PEERS, peers, ours), journey_rows)


def beauty(files: Path, num_seeds: int, peers: Peers) -> Study:
    """Amazon Beauty: the last event of every user is the test part, and the one before it is the validation part."""
    sequences, attributes = (files / name for name in SEQUENCE_FILES)
    corpus = prepared(OUT / "data" / "beauty", "leave-one-out", "--sequences", sequences, "--attributes", attributes)
    part = read_part(corpus, NO_DECAY_DAYS, leave_one_out)
    data, snapshots = part.data, part.data.snapshots

    def shared() -> SharedUsers:
        return shared_users(data.log, data.train_until_ms, len(data.item_ids), min_events=1)

    pairs = key_of(code(ITEMS_CODE), str(SEQUENCE_PENALTY))
    counters: dict[str, tuple[str, Callable[[], Ranker]]] = {
        "popularity": (str(NO_DECAY_DAYS), lambda: Popularity(snapshots)),
        "item_knn": (pairs, lambda: item_neighbours(shared(), snapshots)),
        "ease": (pairs, lambda: ease(shared(), snapshots, SEQUENCE_PENALTY)),
    }

    @cache
    def ours(*options: str) -> Runs:
        return our_runs(part, [trained("leave_one_out", corpus, seed, options) for seed in range(num_seeds)])

    variants: Makers = {"ours": ours, "two_percent": lambda: ours(*TWO_PERCENT)}
    return Study(variants, counter_runs(part, counters), peer_runs(part, SEQUENCE_PEERS, peers, ours), beauty_rows)


def read_part(corpus: Corpus, half_life_days: float, queries_of: Callable[[EventLog, int, int], list[Query]]) -> Part:
    """The corpus with its queries, read for the counters and peers."""
    schema = load_schema(corpus.schema)
    data = read_data(corpus.events, corpus.items, schema, (half_life_days,), CONTEXT_ROWS, signals=corpus.signals)
    before = queries_of(data.log, data.train_until_ms, data.test_from_ms)
    validation = sample(np.random.default_rng(0), before, VALIDATION_ANSWERS)
    return Part(corpus, data, queries_of(data.log, data.test_from_ms, data.end_ms), validation)


def counter_runs(part: Part, counters: Mapping[str, tuple[str, Callable[[], Ranker]]]) -> Makers:
    """The counters, each given as what it depends on and how it is made."""

    def runs(name: str, made_of: str, make: Callable[[], Ranker]) -> Callable[[], Runs]:
        return lambda: Runs([ranked(part, name, made_of, make)])

    return {name: runs(name, made_of, make) for name, (made_of, make) in counters.items()}


def peer_runs(part: Part, configs: Mapping[str, Callable[[], PeerConfig]], peers: Peers, ours: Callable[[], Runs]) -> Makers:
    """The peers; none if they are not wanted."""

    def runs(name: str, config: PeerConfig) -> Callable[[], Runs]:
        return lambda: trained_peer(part, name, peers.jobs(config, lambda: ours().train_min or 0.0))

    return {name: runs(name, config()) for name, config in configs.items()} if peers.wanted else {}


def trained(recipe: str, corpus: Corpus, seed: int, options: Sequence[str] = ()) -> Path:
    """The bundle of a recipe, seed and options of `twotower train`, trained in a separate process if it does not exist.

    A killed run is resumed.
    """
    config = msgspec.json.encode(RECIPES[recipe]()).decode()
    bundle = OUT / "bundles" / f"{recipe}-seed{seed}-{key_of(corpus.fingerprint, config, *options)}"
    if bundle.exists():
        say(f"reused {bundle}, of {made_on(bundle)}: delete it when the training code has changed since")
    else:
        data = ("--events", corpus.events, "--items", corpus.items, "--schema", corpus.schema)
        signals = ("--signals", corpus.signals) if corpus.signals else ()
        run_twotower("train", recipe, *data, *signals, *options, "--seed", str(seed), "--out", bundle, "--resume")
    return bundle


def our_runs(part: Part, paths: Sequence[Path]) -> Runs:
    """The rankings of our bundles, one for each seed."""
    bundles = [load_bundle(path) for path in paths]
    size = parameters(bundles[0])
    minutes = max(training_s(bundle) for bundle in bundles) / 60
    rankings = [our_rankings(part, bundle) for bundle in bundles]
    return Runs(rankings, minutes, int(size["embedder"] + size["contextualizer"]), size["embedder_share"])


def training_s(bundle: Bundle) -> float:
    """Wall-clock seconds of the bundle's training."""
    return float(bundle.metrics["training"]["seconds"])


def parameters(bundle: Bundle) -> dict[str, float]:
    """Parameters of both towers, and the embedder's share of them."""
    return dict(bundle.metrics["parameters"])


def our_rankings(part: Part, bundle: Bundle) -> Rankings:
    """The rankings of a bundle's model for all queries."""

    def model() -> Ranker:
        towers, config = bundle.towers, bundle.towers.config.model
        data = read_data(
            part.corpus.events,
            part.corpus.items,
            towers.schema,
            towers.config.popularity_half_lives_days,
            config.context_table_rows,
            config.context_spec,
            part.corpus.signals if towers.schema.signals else None,
        )
        with step("embed items", total=len(data.item_ids), unit="items") as work:
            parts = embed_catalogue(
                part.corpus.items, towers.schema.items, towers.embedder, config.item_spec, config.table_rows, work.advance
            )
            vectors_ND = torch.from_numpy(np.concatenate([vectors for _, vectors in parts]))
        return Model(towers.contextualizer, config, vectors_ND, data.log, data.snapshots)

    return ranked(part, f"ours-{bundle.manifest.id}", code("twotower"), model)


def trained_peer(part: Part, name: str, jobs: Sequence[PeerJob]) -> Runs:
    """The rankings of a peer, one for each job."""
    made = [peer_rankings(part, name, job) for job in jobs]
    minutes = max(report.train_s for _, report in made) / 60
    return Runs([rankings for rankings, _ in made], minutes, made[0][1].parameters)


def peer_rankings(part: Part, name: str, job: PeerJob) -> tuple[Rankings, PeerReport]:
    """The rankings of a peer for all queries, and its report. Trains the peer if that has not been done."""
    files = (f"{program_of(job)}.py", "peer_queries.py", "export.py", "requirements.txt")
    made_by = code(*(f"benchmarks/training_rivals/{file}" for file in files))
    key = key_of(part.corpus.fingerprint, msgspec.json.encode(job).decode(), made_by)
    directory = OUT / "peers" / f"{part.corpus.name}-{name}-{key}"
    if directory.exists():
        say(f"reused {directory}, of {made_on(directory)}")
    else:
        train_peer(part.data, job, part.queries, part.validation, directory)
    return ranked(part, name, key, lambda: load_peer(directory, part.data, part.queries)), read_report(directory)


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
