"""Watch a run: note its steps, and now and then how good it is on a fixed sample of validation queries."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from training.data.read import Data
from training.evaluation.metrics import candidate_set, point_metrics
from training.evaluation.rankers import PROTOCOLS, Model, PersonalFrequency, Popularity, Query, Ranker, rank
from training.evaluation.splits import sample
from training.losses.objective import Objective
from training.recipes.config import TrainConfig
from training.run.journal import EvaluationLine, RunJournal, StepLine
from training.run.loop import StepReport, TrainState, progress
from twotower.data.features import EncodedRows
from twotower.model.catalogue import embed_rows
from twotower.model.config import ModelConfig

NUM_ANSWERS = 3000
MAX_SHARE = 0.05  # of this attempt's training time; an evaluation is left out while those before it took more


@dataclass
class Watch:
    """What is called at every step of a run, and once at its start and at its end.

    Evaluations take from the training time: a run of 20 minutes ends after 20 minutes. Every rank of several has a watch,
    because sharded weights are gathered by all of them; only rank 0 has a journal, and evaluates.
    """

    config: TrainConfig
    model: ModelConfig
    items: EncodedRows
    data: Data
    journal: RunJournal | None
    _done: float = 0.0  # progress of the last evaluation
    _begun_s: float = 0.0
    _spent_s: float = 0.0
    _evaluated_s: float | None = None  # when the last evaluation began, until the next step tells how long it took
    _frozen: dict[int, Tensor] = field(default_factory=dict)  # item vectors of the stage that does not change them

    @cached_property
    def queries(self) -> list[Query]:
        """Of validation, with about 3,000 answers, of whole users: the same in every run on these data with this seed."""
        queries = PROTOCOLS[self.config.protocol](self.data.log, self.data.train_until_ms, self.data.test_from_ms)
        return sample(np.random.default_rng(self.config.seed), queries, NUM_ANSWERS) if self.config.evaluations else []

    def begin(self, state: TrainState, about: Mapping[str, Any]) -> None:
        """A fresh run first notes how good the counters are; one that goes on has that in its journal."""
        self._done, self._begun_s = progress(self.config, state), state.elapsed_s
        if self.journal is not None:
            self.journal.begin(about, after_step=state.step)
        if state.step == 0:
            self._note("popularity", lambda: Popularity(self.data.snapshots), step=0, stage=0)
            self._note("personal_frequency", lambda: PersonalFrequency(self.data.snapshots), step=0, stage=0)

    def step(self, report: StepReport, towers: Callable[[], Objective]) -> None:
        """Note a step, and evaluate when it is time; `towers` gives the towers whole and on the CPU."""
        if self.journal is not None:
            self.journal.step(
                StepLine(
                    loss=report.step_loss,
                    gradient_norm=report.gradient_norm,
                    step=report.step,
                    stage=report.stage,
                    progress=report.progress,
                    learning_rate=report.learning_rate,
                    events_per_s=report.events_per_s,
                    seconds=report.elapsed_s,
                )
            )
        if self._is_due(report):
            self._done, self._evaluated_s = report.progress, report.elapsed_s
            self.evaluate(towers(), report.step, report.stage)

    def _is_due(self, report: StepReport) -> bool:
        """All of it follows from what the ranks agree on, for they must decide alike."""
        if self._evaluated_s is not None:
            self._spent_s += report.elapsed_s - self._evaluated_s
            self._evaluated_s = None
        parts = self.config.evaluations + 1  # the end is one more, and not for the watch
        passed_a_point = int(report.progress * parts) > int(self._done * parts)
        affordable = self._spent_s <= MAX_SHARE * (report.elapsed_s - self._begun_s)
        return passed_a_point and report.progress < 1 and affordable

    def evaluate(self, towers: Objective, step: int, stage: int) -> None:
        """Note how good the towers are now; they keep the modes they are in."""
        log, snapshots = self.data.log, self.data.snapshots
        with evaluating(towers):
            self._note(
                "model",
                lambda: Model(towers.contextualizer, self.model, self._vectors(towers, stage), log, snapshots),
                step,
                stage,
            )

    def _vectors(self, towers: Objective, stage: int) -> Tensor:
        if stage not in self._frozen:
            vectors_ND = embed_rows(towers.embedder, self.items).clone()
            if self.config.stages[stage - 1].train_embedder:
                return vectors_ND
            self._frozen = {stage: vectors_ND}
        return self._frozen[stage]

    def _note(self, name: str, make: Callable[[], Ranker], step: int, stage: int) -> None:
        if self.journal is None or not self.queries:
            return
        begun = time.monotonic()
        rankings = rank({name: make()}, self.data.log, self.queries, self.data.train_count_N)[name]
        num_items = len(self.data.item_ids)
        self.journal.evaluation(
            EvaluationLine(
                step=step,
                stage=stage,
                part="validation",
                ranker=name,
                candidates=candidate_set(num_items, past_masked=self.queries[0].mask_past_items),
                seconds=time.monotonic() - begun,
                metrics=point_metrics(rankings, num_items),
            )
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All of a module in evaluation mode; each part goes back to the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
