"""Runs in the peers' environment: trains one of rectools' models with rectools' code, then encodes items and queries.

`python -m benchmarks.training_rivals.fit DIRECTORY`, where `benchmarks.training_rivals.job` says what the directory holds.

Q: queries, L: session length, K: known items and the padding token (row 0), D: width, N: items of the catalogue
"""

import importlib.metadata
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel
from torch import Tensor

from benchmarks.training_rivals.job import (
    ITEM_ROWS,
    ITEM_VECTORS,
    QUERIES,
    QUERY_VECTORS,
    REPORT,
    SESSIONS,
    VALIDATION,
    PeerJob,
    read_job,
)
from benchmarks.training_rivals.peer_queries import Queries, ndcg10, read_queries

ENCODE_BATCH = 256
PACKAGES = ("rectools", "torch", "pytorch-lightning", "numpy")


class KeepBest(lightning.Callback):  # type: ignore[misc]
    """Evaluates the model on validation queries after every epoch, keeps the best weights, and stops without progress."""

    def __init__(self, queries: Queries, length: int, patience: int) -> None:
        self.queries, self.length, self.patience = queries, length, patience
        self.scores: list[float] = []
        self.best: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Evaluate. Also called for an epoch that ended early because the time was over."""
        items_KD = item_vectors(module.torch_model)
        row_of = internal_rows(module.data_preparator)
        scores_QK = query_vectors(module, self.queries, self.length) @ items_KD.T
        scores_QK[:, 0] = -torch.inf
        answers = [row_of[a] for a in self.queries.answers]
        self.scores.append(ndcg10(scores_QK, answers))
        module.train()
        if self.scores[-1] == max(self.scores):
            self.best = {name: value.clone() for name, value in module.torch_model.state_dict().items()}
        epochs_since = len(self.scores) - 1 - int(np.argmax(self.scores))
        trainer.should_stop = trainer.should_stop or epochs_since >= self.patience
        print(f"epoch {len(self.scores)}: validation NDCG@10 {self.scores[-1]:.4f}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Any, module: Any) -> None:  # noqa: ARG002
        """Restore the weights of the best epoch."""
        module.torch_model.load_state_dict(self.best)


def main() -> int:
    """Do the job in the directory that the command line names."""
    directory = Path(sys.argv[1])
    job = read_job(directory)
    torch.set_num_threads(job.threads)
    lightning.seed_everything(job.seed, verbose=False)
    keep = KeepBest(read_queries(directory / VALIDATION), job.config.length, job.config.patience)
    model = make_model(job, keep)
    started = time.monotonic()
    model.fit(read_sessions(directory / SESSIONS))
    train_s = time.monotonic() - started
    module = model.lightning_model
    row_of, items_KD = internal_rows(model.data_preparator), item_vectors(module.torch_model)
    known = np.flatnonzero(row_of)
    np.save(directory / ITEM_ROWS, known)
    np.save(directory / ITEM_VECTORS, items_KD[row_of[known]].numpy())
    np.save(directory / QUERY_VECTORS, query_vectors(module, read_queries(directory / QUERIES), job.config.length).numpy())
    fitted = next(c for c in model.fit_trainer.callbacks if isinstance(c, KeepBest))
    report = {
        "parameters": sum(p.numel() for p in module.torch_model.parameters()),
        "epochs": len(fitted.scores),
        "steps": model.fit_trainer.global_step,
        "train_s": train_s,
        "validation": fitted.scores,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    (directory / REPORT).write_text(json.dumps(report, indent=2))
    return 0


def make_model(job: PeerJob, *callbacks: lightning.Callback) -> Any:
    """rectools' model for a config. It trains until the time of the job is over or a callback stops it."""
    config = job.config

    def trainer() -> Any:
        return lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=-1,
            max_time=timedelta(minutes=job.minutes),
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    return {"sasrec": SASRecModel, "hstu": HSTUModel}[config.model](
        n_factors=config.width,
        n_blocks=config.num_layers,
        n_heads=config.num_heads,
        session_max_len=config.length,
        dropout_rate=config.dropout,
        loss=config.loss,
        n_negatives=config.num_negatives,
        lr=config.learning_rate,
        batch_size=config.batch,
        get_trainer_func=trainer,
        lightning_module_kwargs={"logits_t": config.temperature},
    )


def read_sessions(path: Path) -> Dataset:
    """A data set with one rectools user per session. Baskets keep their order, because rectools' sort is stable."""
    table = pq.read_table(path)
    frame = pa.table(
        {
            Columns.User: table["session"],
            Columns.Item: table["item"],
            Columns.Weight: pa.array(np.ones(len(table))),
            Columns.Datetime: table["time_ms"].cast(pa.timestamp("ms")).cast(pa.timestamp("ns")),
        }
    )
    return Dataset.construct(frame.to_pandas())


def internal_rows(preparator: Any) -> npt.NDArray[np.int64]:
    """rectools' row of each catalogue row [N]; 0, its padding token, for items that it does not know."""
    external = preparator.item_id_map.external_ids[1:].astype(np.int64)
    row_of = np.zeros(int(external.max()) + 1, np.int64)
    row_of[external] = np.arange(1, len(external) + 1)
    return row_of


@torch.no_grad()
def item_vectors(net: Any) -> Tensor:
    """Item vectors [K, D]. Their dot product with a query vector is the score of the model."""
    net.eval()
    return as_compared(net, net.item_model.get_all_embeddings())


@torch.no_grad()
def query_vectors(module: Any, queries: Queries, length: int) -> Tensor:
    """Query vectors [Q, D] from the last `length` known events; zeros for a query without any."""
    net, row_of = module.torch_model.eval(), internal_rows(module.data_preparator)
    items_KD = net.item_model.get_all_embeddings()
    vectors_QD = torch.zeros(len(queries.items), items_KD.shape[1])
    there = np.flatnonzero([len(i) > 0 for i in queries.items])
    for begin in range(0, len(there), ENCODE_BATCH):
        batch = there[begin : begin + ENCODE_BATCH]
        hidden_BLD = net.encode_sessions(pad(queries, batch, row_of, length), items_KD)
        vectors_QD[batch] = as_compared(net, hidden_BLD[:, -1])
    return vectors_QD


def as_compared(net: Any, vectors: Tensor) -> Tensor:
    """Unit vectors if the model scores by cosine, else the vectors as they are."""
    cosine = net.similarity_module.distance.value == "cosine"
    return torch.nn.functional.normalize(vectors, dim=-1) if cosine else vectors


def pad(queries: Queries, chosen: npt.NDArray[np.int64], row_of: npt.NDArray[np.int64], length: int) -> dict[str, Tensor]:
    """A batch as rectools' recommend loader makes it: padded on the left, with the time of the query after the last event."""
    x_BL = np.zeros((len(chosen), length), np.int64)
    seconds_BL1 = np.zeros((len(chosen), length + 1), np.int64)
    for b, query in enumerate(chosen):
        rows, times_ms = row_of[queries.items[query][-length:]], queries.times_ms[query][-length:]
        x_BL[b, -len(rows) :] = rows
        seconds_BL1[b] = times_ms[0] // 1000
        seconds_BL1[b, -len(rows) - 1 : -1] = times_ms // 1000
        seconds_BL1[b, -1] = queries.now_ms[query] // 1000
    return {"x": torch.from_numpy(x_BL), "unix_ts": torch.from_numpy(seconds_BL1)}


if __name__ == "__main__":
    sys.exit(main())
