"""A trained peer as one of our rankers: the same code ranks and evaluates it as our model.

N: items of the catalogue, Q: queries, K: items the peer knows, D: its width
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.training_rivals.environment import peer_python, without_constraints
from benchmarks.training_rivals.export import export
from benchmarks.training_rivals.job import ITEM_ROWS, ITEM_VECTORS, JOB, QUERY_VECTORS, REPORT, PeerJob, PeerReport
from training.data.popularity_snapshots import PopularitySnapshots
from training.data.read import Data
from training.evaluation.ranked_batch import MASKED
from training.evaluation.rankers import Query
from twotower.artefacts.manifest import staging
from twotower.data.item_statistics import ItemStatistics
from twotower.progress import step


@dataclass(frozen=True)
class Dot:
    """Dot products of stored query and item vectors. Items that the peer does not know come last, tied.

    A user whose history has no known items gets popular items, as in any real system.
    """

    vectors_ND: Tensor
    unknown_N: Tensor
    queries_QD: Tensor
    place: dict[tuple[int, int], int]  # user and number of known events -> row of `queries_QD`
    snapshots: PopularitySnapshots
    has_probabilities: bool = False

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:  # noqa: ARG002
        """Write the scores [Q, N]."""
        queries_QD = self.queries_QD[[self.place[q.user, q.num_known] for q in queries]]
        torch.matmul(queries_QD, self.vectors_ND.T, out=out_QN)
        out_QN[:, self.unknown_N] = MASKED
        for row in torch.nonzero((queries_QD == 0).all(1))[:, 0].tolist():
            out_QN[row] = torch.from_numpy(self.snapshots.day(queries[row].now_ms)[0])


def program_of(job: PeerJob) -> str:
    """The module that trains a peer: ours for BSARec, else the one that runs rectools in its own environment."""
    return "bsarec" if job.config.model == "bsarec" else "fit"


def train_peer(data: Data, job: PeerJob, queries: Sequence[Query], validation: Sequence[Query], out: Path) -> None:
    """Train a peer in a separate process and write its vectors to `out`, which appears only when it is complete."""
    program = program_of(job)
    python = peer_python() if program == "fit" else sys.executable
    with staging(out.parent) as directory, step(f"train {job.config.model}") as work:
        (directory / JOB).write_bytes(msgspec.json.format(msgspec.json.encode(job)))
        export(data, queries, validation, job.config.length, job.seed, directory)
        threads = {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
        environment = without_constraints(os.environ) | threads
        command = [python, "-W", "ignore", "-m", f"benchmarks.training_rivals.{program}", directory]
        subprocess.run(command, check=True, env=environment)
        directory.rename(out)
        report = read_report(out)
        work.say(f"{report.epochs} epochs, best validation NDCG@10 {max(report.validation):.4f}")


def read_report(directory: Path) -> PeerReport:
    """The report of a finished job."""
    return msgspec.json.decode((directory / REPORT).read_bytes(), type=PeerReport)


def load_peer(directory: Path, data: Data, queries: Sequence[Query]) -> Dot:
    """The ranker of a finished job. `queries` must be those of the job."""
    known, vectors_KD = _array(directory / ITEM_ROWS), _array(directory / ITEM_VECTORS)
    vectors_ND = np.zeros((len(data.item_ids), vectors_KD.shape[1]), np.float32)
    vectors_ND[known] = vectors_KD
    unknown_N = np.ones(len(data.item_ids), bool)
    unknown_N[known] = False
    queries_QD = _array(directory / QUERY_VECTORS)
    if len(queries_QD) != len(queries):
        raise ValueError(f"{directory} answers {len(queries_QD)} queries, not {len(queries)}: delete it, and it is trained again")
    place = {(q.user, q.num_known): row for row, q in enumerate(queries)}
    return Dot(torch.from_numpy(vectors_ND), torch.from_numpy(unknown_N), torch.from_numpy(queries_QD), place, data.snapshots)


def _array(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return array
