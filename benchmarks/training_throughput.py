"""Training speed: events per second of our stage 1 against rectools' SASRec, and both against this machine's GEMM rate.

Equal on both sides: the purchases (Complete Journey before November), width, layers, heads, the longest window (256 events),
windows per step, dropout, Adam, fp32 and threads. Each event of a window is read once and is a right answer once, except for
those of the first basket. A step includes drawing the batch, forward, backward and Adam.

- sampled, the headline: the catalogue of 92,331 products and 256 uniform negatives, the number of rectools' own recipe.
  rectools draws them for every position and gathers their vectors position by position. Ours draws them once per step, adds
  all items of the batch, and scores every query against all of them: several thousand candidates each.
- whole: the 4,096 best-selling products, and the exact softmax over all of them with gradients to all of them. Both sides use
  one matrix product and no sampling, which is the fastest way to train with rectools.

Not equal: rectools scores every position, that is, it predicts an item also from earlier items of the same basket. Ours
scores every basket boundary, with all items of the next basket as answers, and scores the user's past items apart. So we
score fewer positions for the same answers; the report holds both counts. Per event our blocks are larger (11 D^2 weights a
layer against 6 D^2), and an item is embedded from its features, not looked up. rectools gets full windows only; ours are
padded to the longest of the batch, and padding is not counted as events.

Rounds of both sides alternate in one run; a speed-up is the median over the rounds of one ratio each.

B: windows
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import pyarrow.parquet as pq
import torch

from benchmarks.quality import JOURNEY
from benchmarks.report import DIRECTORY, Row, write_report
from benchmarks.training_rivals.corpus import Corpus, best_sellers, prepared
from benchmarks.training_rivals.environment import peer_python, without_constraints
from benchmarks.training_rivals.export import sessions, sessions_table, shuffle_baskets
from benchmarks.training_rivals.flops import DenseWork, training_flops
from benchmarks.training_rivals.job import JOB, SESSIONS, PeerConfig, PeerJob, Round
from training.data.batches import BatchSampler, TrainBatch
from training.data.read import Data, read_data
from training.losses.objective import Objective, TrainedItems
from training.recipes.budget import CONTEXT_TABLE_ROWS, size_model
from training.recipes.config import StageConfig, TrainConfig
from training.run.loop import StepReport, prepare_training, train
from twotower.artefacts.manifest import staging
from twotower.data.features import EncodedRows
from twotower.data.schema import load_schema
from twotower.data.window import WINDOW
from twotower.model.catalogue import encode_items, fit_item_spec, stream_items
from twotower.progress import step

NUM_LAYERS, NUM_HEADS, NUM_WINDOWS, DROPOUT = 2, 4, 16, 0.1
EMBEDDER_SHARE = 0.05  # because 2 % of such a small model is too little for the features
WARM_UP_STEPS, ROUND_STEPS, NUM_ROUNDS = 5, 10, 7
GEMM_SIZES, GEMM_REPEATS = (512, 1024, 2048), 5
GIGA = 1e9


@dataclass(frozen=True)
class Setting:
    """A setting for both sides: the exact softmax over the `num_best` best-sellers, or a sampled one over all items."""

    suffix: str  # of the names of rows; the headline has none
    width: int
    num_best: int | None = None
    num_negatives: int = 256


SETTINGS = (
    Setting("", 128),
    Setting("_d64", 64),
    Setting("_whole", 128, num_best=4096),
    Setting("_whole_d64", 64, num_best=4096),
)


class Pair(NamedTuple):
    """One of our rounds, and the peer's round after it."""

    ours: Round
    theirs: Round


def main() -> int:
    """Measure and report. Exit status 1 when a figure misses its limit."""
    journey = prepared(JOURNEY, "complete-journey")
    gflops = gemm_gflops()
    rows = [Row(metric="gemm_gflops", value=gflops, unit="GFLOP/s", better="higher")]
    for setting in SETTINGS:
        corpus = journey
        if setting.num_best is not None:
            corpus = best_sellers(journey, setting.num_best, DIRECTORY / "training_throughput" / f"best{setting.num_best}")
        with step(f"train both, setting{setting.suffix or '_sampled'}"):
            rows += rows_of(measure(corpus, setting), gflops, setting.suffix)
        write_report("training_throughput", rows)  # after each, so that a run cut short keeps what it measured
    return 0 if all(row.meets_must for row in rows) else 1


def rows_of(pairs: Sequence[Pair], gflops: float, suffix: str) -> list[Row]:
    """Medians over the rounds. Only the headline, which has no suffix, has limits."""
    speedup = statistics.median(events_per_s(p.ours) / events_per_s(p.theirs) for p in pairs)
    bounds = (None, None) if suffix else (2.0, 4.0)
    rows = [Row(metric=f"train_speedup{suffix}", value=speedup, unit="x", better="higher", must=bounds[0], goal=bounds[1])]
    for side, rounds in (("ours", [p.ours for p in pairs]), ("theirs", [p.theirs for p in pairs])):
        figures = {
            "events_per_s": (statistics.median(events_per_s(r) for r in rounds), "events/s"),
            "utilisation": (statistics.median(100 * r.flops / r.seconds / GIGA / gflops for r in rounds), "% of GEMM"),
            "events_per_step": (statistics.mean(r.events / r.steps for r in rounds), "events"),
            "positions_per_event": (sum(r.positions for r in rounds) / sum(r.events for r in rounds), ""),
            "answers_per_event": (sum(r.answers for r in rounds) / sum(r.events for r in rounds), ""),
            "candidates_per_position": (sum(r.scores for r in rounds) / sum(r.positions for r in rounds), ""),
        }
        for name, (value, unit) in figures.items():
            rows.append(Row(metric=f"train_{name}_{side}{suffix}", value=value, unit=unit, better="higher"))
    return rows


def events_per_s(measured: Round) -> float:
    """Events of histories read per second."""
    return measured.events / measured.seconds


def gemm_gflops() -> float:
    """The best fp32 matrix product of this machine, on the threads that training uses, in GFLOP/s."""
    rates = []
    for size in GEMM_SIZES:
        left, right, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
        torch.mm(left, right, out=out)
        for _ in range(GEMM_REPEATS):
            started = time.perf_counter()
            torch.mm(left, right, out=out)
            rates.append(2 * size**3 / (time.perf_counter() - started) / GIGA)
    return max(rates)


def measure(corpus: Corpus, setting: Setting) -> list[Pair]:
    """Train both sides in alternating rounds."""
    config = our_config(setting)
    schema = msgspec.structs.replace(load_schema(corpus.schema), signals=None)  # because the peer cannot read signals
    data = read_data(corpus.events, corpus.items, schema, config.half_lives_days, CONTEXT_TABLE_ROWS)
    spec = fit_item_spec(corpus.items, data.schema.items)
    model = size_model(config, spec, data.log.context_spec)
    parts = [encode_items(table, spec, model.table_rows) for table in stream_items(corpus.items, data.schema.items)]
    sampler = BatchSampler(data.log, data.train_until_ms, model, config)
    inputs, state = prepare_training(config, model, EncodedRows.concatenate(parts), sampler, data.snapshots)
    with peer(data, setting) as their_round:
        their_round(WARM_UP_STEPS)
        turns = Turns(OurWork(state.objective, setting.width), their_round)
        train(inputs, state, turns)
    return turns.pairs


def our_config(setting: Setting) -> TrainConfig:
    """Stage 1 only, which trains both towers, with every basket boundary of a window as a query."""
    uniform = setting.num_best or setting.num_negatives
    steps = WARM_UP_STEPS + NUM_ROUNDS * ROUND_STEPS
    return TrainConfig(
        metric="events per second",
        minutes=None,
        stages=(StageConfig(share=1.0, num_negatives=uniform, train_embedder=True, max_steps=steps),),
        width=setting.width,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        embedder_share=EMBEDDER_SHARE,
        batch_windows=NUM_WINDOWS,
        max_queries=NUM_WINDOWS * WINDOW,
        dropout=DROPOUT,
    )


def their_config(setting: Setting) -> PeerConfig:
    """SASRec with the exact softmax over the catalogue, or with its own sampled negatives."""
    return PeerConfig(
        model="sasrec",
        width=setting.width,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        length=WINDOW,
        batch=NUM_WINDOWS,
        loss="sampled_softmax" if setting.num_best is None else "softmax",
        num_negatives=setting.num_negatives,
        dropout=DROPOUT,
    )


class OurWork:
    """Counts the events and scores of our training steps, by hooks on the towers."""

    def __init__(self, objective: Objective, width: int) -> None:
        self.dense, self.width = DenseWork(objective), width
        self.begin()
        objective.register_forward_pre_hook(lambda _, inputs: self.add(*inputs))

    def begin(self) -> None:
        """Reset the counts and the clock."""
        self.steps = self.events = self.squares = self.positions = self.answers = self.scores = 0
        self.dense.take(1, 0)
        self.started = time.perf_counter()

    def add(self, batch: TrainBatch, scored: TrainedItems) -> None:
        """Count one step."""
        lengths_B = batch.histories.lengths_B
        self.steps += 1
        self.events += int(lengths_B.sum())
        self.squares += int((lengths_B**2).sum())
        self.positions += len(batch.window_Q)
        self.answers += len(batch.answer_rows_A)
        self.scores += len(batch.window_Q) * len(scored.drawn.rows_C)

    def round(self) -> Round:
        """The measurements since `begin`."""
        seconds = time.perf_counter() - self.started
        dense = self.dense.take(self.steps, self.events)
        return Round(
            steps=self.steps,
            seconds=seconds,
            events=self.events,
            positions=self.positions,
            answers=self.answers,
            scores=self.scores,
            flops=training_flops(dense, NUM_LAYERS, self.width, self.squares, self.scores),
        )


class Turns:
    """Called after each of our steps. At the end of a round, waits while the peer trains for as many steps."""

    def __init__(self, ours: OurWork, their_round: Callable[[int], Round]) -> None:
        self.ours, self.their_round = ours, their_round
        self.pairs: list[Pair] = []

    def __call__(self, report: StepReport) -> None:
        """Begin or end a round. The first steps are a warm-up."""
        done = report.step - WARM_UP_STEPS
        if done < 0 or done % ROUND_STEPS:
            return
        if done:
            ours = self.ours.round()
            self.pairs.append(Pair(ours, self.their_round(ROUND_STEPS)))
        self.ours.begin()


@contextmanager
def peer(data: Data, setting: Setting) -> Iterator[Callable[[int], Round]]:
    """Start rectools' training in a separate process. The result runs so many steps and returns their measurements."""
    python, threads = peer_python(), torch.get_num_threads()
    environment = without_constraints(os.environ) | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with staging(DIRECTORY / "training_throughput") as directory:
        job = PeerJob(config=their_config(setting), minutes=60.0, threads=threads)
        (directory / JOB).write_bytes(msgspec.json.encode(job))
        full = [s for s in sessions(data.log, data.train_until_ms, WINDOW) if s.stop - s.start == WINDOW + 1]
        pq.write_table(sessions_table(data.log, shuffle_baskets(data.log, seed=0), full), directory / SESSIONS)
        command = [str(python), "-W", "ignore", "-m", "benchmarks.training_rivals.pace", str(directory)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            stdin, stdout = child.stdin, child.stdout

            def run(num_steps: int) -> Round:
                print(num_steps, file=stdin, flush=True)
                if not (line := stdout.readline()):
                    raise RuntimeError("the peer's process ended early: what it said is above")
                return msgspec.json.decode(line, type=Round)

            yield run


if __name__ == "__main__":
    sys.exit(main())
