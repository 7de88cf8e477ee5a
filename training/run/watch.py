"""Writes the steps of a run into its journal, and from time to time evaluates it on a fixed sample of validation queries."""

import math
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
from training.run.loop import StepReport, TrainState, progress, stage_starts
from training.run.stopping import SAMPLE_ANSWERS, StageEnd, describe, enough_to_stop_by, stop_metric, too_few
from twotower.data.features import EncodedRows
from twotower.model.catalogue import embed_rows
from twotower.model.config import ModelConfig
from twotower.progress import say

NUM_ANSWERS = 3000
MAX_SHARE = 0.05  # of the training time; an evaluation is skipped if the earlier ones took more, unless the run stops by them


@dataclass
class Watch:
    """Called at the start of a run, at every step, and at the end.

    The time for evaluations counts as training time: a run of 20 minutes ends after 20 minutes. Every rank has a watch, because
    all ranks take part in gathering sharded weights; only rank 0 has a journal and evaluates.
    """

    config: TrainConfig
    model: ModelConfig
    items: EncodedRows
    data: Data
    journal: RunJournal | None
    _done: float = 0.0  # progress at the last evaluation
    _begun_s: float = 0.0
    _spent_s: float = 0.0
    _evaluated_s: float | None = None  # start of the last evaluation; None once the next step has told how long it took
    _frozen: dict[int, Tensor] = field(default_factory=dict)  # item vectors, by stage, if the stage does not train the embedder

    @cached_property
    def queries(self) -> list[Query]:
        """Validation queries with about 3,000 answers, 10,000 with patience: the same in every run with these data and seed."""
        if not self.config.evaluations:
            return []
        queries = PROTOCOLS[self.config.protocol](self.data.log, self.data.train_until_ms, self.data.test_from_ms)
        num_answers = NUM_ANSWERS if self.config.patience is None else SAMPLE_ANSWERS
        return sample(np.random.default_rng(self.config.seed), queries, num_answers)

    @cached_property
    def num_answers(self) -> int:
        """Answers of the sample."""
        return sum(len(query.answers) for query in self.queries)

    @cached_property
    def stops(self) -> bool:
        """Whether the run stops early and keeps its best weights: with patience, and enough answers to choose by."""
        return self.config.patience is not None and enough_to_stop_by(self.num_answers)

    def begin(self, state: TrainState, about: Mapping[str, Any]) -> None:
        """Begin the journal. A new run also evaluates the counting baselines; a resumed run has that in its journal."""
        self._done, self._begun_s = progress(self.config, state), state.elapsed_s
        if self.journal is not None:
            self.journal.begin(about, after_step=state.step, ends=state.ends)
            if self.config.patience is not None and not self.stops:
                say(f"  {too_few(self.config, self.num_answers)}")
        if state.step == 0:
            self._note("popularity", lambda: Popularity(self.data.snapshots), step=0, stage=0)
            self._note("personal_frequency", lambda: PersonalFrequency(self.data.snapshots), step=0, stage=0)

    def step(self, report: StepReport, towers: Callable[[], Objective]) -> float | None:
        """Write a step, and evaluate if it is time. `towers` returns the towers as a whole.

        Returns the metric to stop by if the run stops early and was evaluated now: NaN on ranks that do not evaluate.
        """
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
        if not self._is_due(report):
            return None
        self._done, self._evaluated_s = report.progress, report.elapsed_s
        metrics = self.evaluate(towers(), report.step, report.stage)
        return metrics.get(stop_metric(self.config), math.nan) if self.stops else None

    def stage_end(self, end: StageEnd) -> None:
        """Write and say how a stage with early stopping ended."""
        if self.journal is not None:
            self.journal.stage_end(end)
            say(f"  {describe(end)}")

    def end(self, towers: Objective, state: TrainState) -> None:
        """Evaluate the towers of the bundle, unless they are those of an evaluation that was the best."""
        if not self.stops:
            self.evaluate(towers, state.step, len(self.config.stages))

    def _is_due(self, report: StepReport) -> bool:
        """Depends only on values on which all ranks agree, because they must decide alike."""
        if self._evaluated_s is not None:
            self._spent_s += report.elapsed_s - self._evaluated_s
            self._evaluated_s = None
        parts = self.config.evaluations + 1  # the last part ends with the run, which is evaluated separately
        start, end = stage_starts(self.config)[report.stage - 1 : report.stage + 1]
        passed_a_point = int(report.progress * parts) > int(max(self._done, start) * parts)
        if self.stops:  # not by the clock, so that the same seed keeps the same weights; the last ones of a stage may be the best
            return passed_a_point or report.progress >= end
        affordable = self._spent_s <= MAX_SHARE * (report.elapsed_s - self._begun_s)
        return passed_a_point and report.progress < 1 and affordable

    def evaluate(self, towers: Objective, step: int, stage: int) -> Mapping[str, float]:
        """Evaluate the towers, write the result and return it. Training and evaluation modes are restored."""
        log, snapshots = self.data.log, self.data.snapshots
        with evaluating(towers):
            return self._note(
                "model",
                lambda: Model(towers.contextualizer, self.model, self._vectors(towers, stage), log, snapshots, towers.embedder),
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

    def _note(self, name: str, make: Callable[[], Ranker], step: int, stage: int) -> Mapping[str, float]:
        if self.journal is None or not self.queries:
            return {}
        begun = time.monotonic()
        rankings = rank({name: make()}, self.data.log, self.queries, self.data.train_count_N)[name]
        num_items = len(self.data.item_ids)
        metrics = point_metrics(rankings, num_items)
        self.journal.evaluation(
            EvaluationLine(
                step=step,
                stage=stage,
                part="validation",
                ranker=name,
                candidates=candidate_set(num_items, past_masked=self.queries[0].mask_past_items),
                seconds=time.monotonic() - begun,
                metrics=metrics,
            )
        )
        return metrics


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and restore the mode of each of its parts at the end."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
