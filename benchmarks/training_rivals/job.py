"""Training jobs of peers: the contract between this project's process and the process in the peers' environment.

A job is a directory. Written by us: job.json, sessions.parquet (session, item, time_ms), validation.parquet and
queries.parquet (items, times_ms, now_ms, answers). Written by the peer: vectors.npy and rows.npy of the items it knows,
queries.npy, and report.json.
"""

from pathlib import Path
from typing import Literal

import msgspec

JOB, SESSIONS, VALIDATION, QUERIES = "job.json", "sessions.parquet", "validation.parquet", "queries.parquet"
ITEM_ROWS, ITEM_VECTORS, QUERY_VECTORS, REPORT = "rows.npy", "vectors.npy", "queries.npy", "report.json"


class PeerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of rectools' models, trained by rectools' code, or "bsarec", trained by ours.

    Names are rectools', and so are defaults if not said otherwise.
    """

    model: Literal["sasrec", "hstu", "bsarec"]
    width: int
    num_layers: int = 2
    num_heads: int
    length: int  # of the sessions that it reads
    batch: int
    loss: Literal["softmax", "sampled_softmax"]
    num_negatives: int = 1  # for the sampled softmax, drawn uniformly for every position
    temperature: float = 1.0
    dropout: float = 0.2
    learning_rate: float = 1e-3
    patience: int = 10  # stops after so many epochs without a better validation NDCG@10


class PeerJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A config with the time and the number of threads for its training."""

    config: PeerConfig
    minutes: float
    threads: int
    seed: int = 0


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a job. `validation` is NDCG@10 after every epoch; the weights of the best epoch are used."""

    parameters: int
    epochs: int
    steps: int
    train_s: float
    validation: tuple[float, ...]
    versions: dict[str, str]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of some training steps."""

    steps: int
    seconds: float
    events: int  # events read, without padding
    positions: int  # that were scored
    answers: int  # right answers of all positions
    scores: int  # pairs of a position and a candidate
    flops: float  # that the model needs (`benchmarks.training_rivals.flops`)


def read_job(directory: Path) -> PeerJob:
    """The job of a directory."""
    return msgspec.json.decode((directory / JOB).read_bytes(), type=PeerJob)


NUM_NEGATIVES = 64  # of every position; eSASRec's 256 make a step take three to five times as long on a CPU


def sasrec_baskets() -> PeerConfig:
    """SASRec for tens of thousands of items: the sampled softmax of eSASRec's recipe, with fewer negatives and more steps."""
    return PeerConfig(
        model="sasrec",
        width=128,
        num_heads=4,
        length=200,
        batch=32,
        loss="sampled_softmax",
        num_negatives=NUM_NEGATIVES,
    )


def hstu_baskets() -> PeerConfig:
    """HSTU with time and position bias and cosine scores at temperature 0.05, as its authors train it."""
    return PeerConfig(
        model="hstu",
        width=128,
        num_heads=4,
        length=200,
        batch=32,
        loss="sampled_softmax",
        num_negatives=NUM_NEGATIVES,
        temperature=0.05,
    )


def sasrec_sequences() -> PeerConfig:
    """SASRec for short sequences, 64 wide, with drawn negatives: three times as many epochs as with the exact softmax."""
    return PeerConfig(
        model="sasrec",
        width=64,
        num_heads=1,
        length=50,
        batch=128,
        loss="sampled_softmax",
        num_negatives=NUM_NEGATIVES,
    )


def sasrec_softmax_sequences() -> PeerConfig:
    """SASRec for short sequences with the exact softmax over the whole catalogue, at every position."""
    return msgspec.structs.replace(sasrec_sequences(), loss="softmax", num_negatives=1)


def bsarec_sequences() -> PeerConfig:
    """BSARec for short sequences: the exact softmax, every prefix a sample, and the dropout of its authors."""
    return PeerConfig(model="bsarec", width=64, num_heads=1, length=50, batch=256, loss="softmax", dropout=0.5)


BASKET_PEERS = {"sasrec": sasrec_baskets, "hstu": hstu_baskets}
SEQUENCE_PEERS = {"sasrec": sasrec_sequences, "sasrec_softmax": sasrec_softmax_sequences, "bsarec": bsarec_sequences}
