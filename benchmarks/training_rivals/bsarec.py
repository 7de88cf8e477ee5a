"""A peer of our own writing, after BSARec (Shin et al. 2024): self-attention, and beside it a filter of frequencies.

`python -m benchmarks.training_rivals.bsarec DIRECTORY`, where `benchmarks.training_rivals.job` says what the directory holds.
Trained as its authors train: every prefix of a session is a sample, and the loss is the cross-entropy of its next item over
all items. Unlike theirs, padding is zero in every layer; so a short history costs no more than its own events.

B: histories, L: events of a history, D: width, K: known items (and in the table, row 0 for padding), S: samples
"""

import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from benchmarks.training_rivals.job import (
    ITEM_ROWS,
    ITEM_VECTORS,
    QUERIES,
    QUERY_VECTORS,
    REPORT,
    SESSIONS,
    VALIDATION,
    PeerConfig,
    PeerJob,
    read_job,
)
from benchmarks.training_rivals.peer_queries import Queries, ndcg10, read_queries

FILTER_SHARE = 0.7  # of the filter in each layer, the rest is attention's; this and the next are the authors' for Beauty
NUM_LOW = 5  # frequencies that count as low
ENCODED_AT_ONCE = 32  # histories of similar length, so that little is computed for padding
INITIAL_STD = 0.02


def low_pass(length: int, num_low: int) -> Tensor:
    """The matrix [L, L] that keeps the `num_low` lowest frequencies of a sequence: discrete Fourier transform, cut, and back."""
    spectrum = torch.fft.rfft(torch.eye(length), dim=0)
    spectrum[num_low:] = 0
    matrix_LL: Tensor = torch.fft.irfft(spectrum, length, dim=0)
    return matrix_LL


class FrequencyFilter(nn.Module):
    """Low frequencies as they are plus high frequencies times a learned weight for each column (equation 7 of the paper)."""

    low_pass_LL: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.register_buffer("low_pass_LL", low_pass(length, NUM_LOW), persistent=False)
        self.root_D = nn.Parameter(torch.ones(width))  # its square weighs the high frequencies, so the weight is never negative

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Filter histories that are shorter than the matrix as if zeros stood before them."""
        length = x_BLD.shape[1]
        low_BLD = self.low_pass_LL[-length:, -length:] @ x_BLD
        return low_BLD + self.root_D**2 * (x_BLD - low_BLD)


class Layer(nn.Module):
    """Filter and attention side by side, mixed by FILTER_SHARE, then a feed-forward network; each with residual and norm."""

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.rate = config.num_heads, config.dropout
        self.filter = FrequencyFilter(width, config.length)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.filter_norm, self.attention_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, sees_B1LL: Tensor) -> Tensor:
        """The layer's output. Position i reads position j where `sees_B1LL` says so; the filter reads all."""
        filtered_BLD = self.filter_norm(x_BLD + self.dropout(self.filter(x_BLD)))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x_BLD).chunk(3, dim=2))
        read = scaled_dot_product_attention(q, k, v, sees_B1LL, self.rate if self.training else 0.0)
        attended_BLD = self.attention_norm(x_BLD + self.dropout(self.from_heads(read.transpose(1, 2).flatten(2))))
        mixed_BLD = FILTER_SHARE * filtered_BLD + (1 - FILTER_SHARE) * attended_BLD
        output: Tensor = self.norm(mixed_BLD + self.dropout(self.feed_forward(mixed_BLD)))
        return output


class BSARec(nn.Module):
    """History -> query vector [D]. The dot product with an item's row of the table is its score."""

    def __init__(self, config: PeerConfig, num_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(1 + num_items, config.width, padding_idx=0)
        self.places_LD = nn.Parameter(torch.empty(config.length, config.width))
        self.norm, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=INITIAL_STD)
        with torch.no_grad():
            self.items.weight[0] = 0

    def forward(self, rows_BL: Tensor) -> Tensor:
        """Query vectors [B, D] of histories that are padded with 0 on the left."""
        length = rows_BL.shape[1]
        there_BL1 = (rows_BL > 0)[:, :, None]
        causal_LL = torch.ones(length, length, dtype=torch.bool).tril()
        sees_BLL = causal_LL & there_BL1.transpose(1, 2) | torch.eye(length, dtype=torch.bool)
        x_BLD = self.dropout(self.norm(self.items(rows_BL) + self.places_LD[-length:])) * there_BL1
        for layer in self.layers:
            x_BLD = layer(x_BLD, sees_BLL[:, None]) * there_BL1
        last_BD: Tensor = x_BLD[:, -1]
        return last_BD

    def encode(self, histories: Sequence[npt.NDArray[np.int64]]) -> Tensor:
        """Query vectors [B, D] of histories of rows, none of them empty."""
        order = np.argsort([len(history) for history in histories], kind="stable")
        parts = [order[begin : begin + ENCODED_AT_ONCE] for begin in range(0, len(order), ENCODED_AT_ONCE)]
        encoded_BD = torch.cat([self(padded([histories[i] for i in part])) for part in parts])
        return encoded_BD[torch.from_numpy(np.argsort(order))]

    @property
    def vectors_KD(self) -> Tensor:
        """The vectors of the known items."""
        return self.items.weight[1:]


def padded(histories: Sequence[npt.NDArray[np.int64]]) -> Tensor:
    """Histories [B, L], padded with 0 on the left to the length of the longest."""
    rows_BL = np.zeros((len(histories), max(map(len, histories))), np.int64)
    for row_L, history in zip(rows_BL, histories, strict=True):
        row_L[len(row_L) - len(history) :] = history
    return torch.from_numpy(rows_BL)


def main() -> int:
    """Do the job in the directory that the command line names."""
    directory = Path(sys.argv[1])
    job = read_job(directory)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    sessions = pq.read_table(directory / SESSIONS)
    known, rows_E = np.unique(sessions["item"].to_numpy(), return_inverse=True)
    model = BSARec(job.config, len(known))
    started = time.monotonic()
    validation = numbered(read_queries(directory / VALIDATION), known)
    scores, steps = train(model, job, *samples(sessions["session"].to_numpy(), 1 + rows_E), validation)
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(scores),
        "steps": steps,
        "train_s": time.monotonic() - started,
        "validation": scores,
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }
    np.save(directory / ITEM_ROWS, known)
    np.save(directory / ITEM_VECTORS, model.vectors_KD.detach().numpy())
    np.save(directory / QUERY_VECTORS, query_vectors(model, numbered(read_queries(directory / QUERIES), known)).numpy())
    (directory / REPORT).write_text(json.dumps(report, indent=2))
    return 0


def numbered(queries: Queries, known: npt.NDArray[np.int64]) -> Queries:
    """The queries with the model's rows, 1 for the first known item, in place of rows of the catalogue."""
    histories, answers = ([1 + np.searchsorted(known, rows) for rows in lists] for lists in (queries.items, queries.answers))
    return queries._replace(items=histories, answers=answers)


def samples(
    session_E: npt.NDArray[np.int64], rows_E: npt.NDArray[np.int64]
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
    """Every prefix of every session, and the item that follows it."""
    starts_E = np.searchsorted(session_E, session_E)
    ends = np.flatnonzero(starts_E < np.arange(len(session_E)))
    return [rows_E[start:end] for start, end in zip(starts_E[ends], ends, strict=True)], rows_E[ends]


def train(
    model: BSARec, job: PeerJob, prefixes: Sequence[npt.NDArray[np.int64]], next_S: npt.NDArray[np.int64], validation: Queries
) -> tuple[list[float], int]:
    """Train until the time is over or validation gets no better; restore the best epoch. Returns scores and steps."""
    config, until = job.config, time.monotonic() + 60 * job.minutes
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    rng, steps = np.random.default_rng(job.seed), 0
    scores: list[float] = []
    best: dict[str, Tensor] = {}
    while not scores or (time.monotonic() < until and len(scores) - 1 - int(np.argmax(scores)) < config.patience):
        order_S = rng.permutation(len(prefixes))
        model.train()
        for begin in range(0, len(order_S), config.batch):
            chosen_B = order_S[begin : begin + config.batch]
            scores_BK = model.encode([prefixes[s] for s in chosen_B]) @ model.vectors_KD.T
            optimizer.zero_grad()
            cross_entropy(scores_BK, torch.from_numpy(next_S[chosen_B] - 1)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps += 1
            if time.monotonic() >= until:
                break
        scores.append(score(model, validation))
        print(f"epoch {len(scores)}: validation NDCG@10 {scores[-1]:.4f}", file=sys.stderr, flush=True)
        if scores[-1] == max(scores):
            best = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    return scores, steps


def score(model: BSARec, queries: Queries) -> float:
    """NDCG@10 of the answers."""
    scores_QK = query_vectors(model, queries) @ model.vectors_KD.detach().T
    return ndcg10(scores_QK, [answers - 1 for answers in queries.answers])


@torch.no_grad()
def query_vectors(model: BSARec, queries: Queries) -> Tensor:
    """Query vectors [Q, D]; zeros for a query without known events."""
    vectors_QD = torch.zeros(len(queries.items), model.items.embedding_dim)
    there = [q for q, history in enumerate(queries.items) if len(history)]
    if there:
        vectors_QD[there] = model.eval().encode([queries.items[q] for q in there])
    return vectors_QD


if __name__ == "__main__":
    sys.exit(main())
