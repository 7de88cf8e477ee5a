"""Runs in the peers' environment: trains in rounds, one for each line on stdin, and times them.

`python -m benchmarks.training_rivals.pace DIRECTORY`, where `benchmarks.training_rivals.job` says what the directory holds.
Each line of stdin is a number of steps. The answer to it is a `Round` in JSON on stdout. The end of stdin ends the run. Loader,
loss, optimizer and training loop are those of rectools.
"""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytorch_lightning as lightning
import torch

from benchmarks.training_rivals.fit import make_model, read_sessions
from benchmarks.training_rivals.flops import DenseWork, training_flops
from benchmarks.training_rivals.job import SESSIONS, PeerConfig, Round, read_job


class Rounds(lightning.Callback):  # type: ignore[misc]
    """At the end of a round, stops the clock and waits for the next line."""

    def __init__(self, config: PeerConfig) -> None:
        self.config = config

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Begin the first round."""
        self.work = DenseWork(module.torch_model)
        self.begin(trainer)

    def begin(self, trainer: Any) -> None:
        """Wait for the number of steps, then start the clock."""
        line = sys.stdin.readline()
        trainer.should_stop = not line
        self.steps = self.left = int(line or 1)
        self.events = self.positions = self.squares = 0
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Count the events and the scored positions, and end the round after its last step."""
        lengths_B = (batch["x"] != 0).sum(1)
        self.events += int(lengths_B.sum())
        self.squares += int((lengths_B**2).sum())
        self.positions += int((batch["y"] != 0).sum())
        self.left -= 1
        if not self.left:
            print(msgspec.json.encode(self.round(module.torch_model.item_model.n_items)).decode(), flush=True)
            self.begin(trainer)

    def round(self, num_items: int) -> Round:
        """The measurements of a round. `num_items` includes the padding token, because rectools' softmax scores it too."""
        seconds = time.perf_counter() - self.started
        dense = self.work.take(self.steps, self.events)
        scores = self.positions * (num_items if self.config.loss == "softmax" else 1 + self.config.num_negatives)
        return Round(
            steps=self.steps,
            seconds=seconds,
            events=self.events,
            positions=self.positions,
            answers=self.positions,
            scores=scores,
            flops=training_flops(dense, self.config.num_layers, self.config.width, self.squares, scores),
        )


def main() -> int:
    """Train the job in the directory that the command line names, until stdin ends."""
    directory = Path(sys.argv[1])
    job = read_job(directory)
    torch.set_num_threads(job.threads)
    lightning.seed_everything(job.seed, verbose=False)
    make_model(job, Rounds(job.config)).fit(read_sessions(directory / SESSIONS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
