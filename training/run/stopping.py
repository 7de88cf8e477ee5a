"""Early stopping: a stage ends after so many evaluations without improvement, and the run keeps the best weights.

Pure functions; the loop acts on them, and the watch evaluates.

How many answers: on 2,087 validation answers of Complete Journey, the NDCG@10 of two evaluations eight steps apart differed with
a standard error of 3.0 % of its value (the same baskets, whole users resampled). It falls with the root of the answers: 1.4 % on
10,000, 4.4 % on 1,000. Twice the best number of steps cost 3 % on Amazon Beauty, and more steps cost more. So 10,000 answers show
overfitting early, at two standard errors, and 1,000 show it when it has cost 9 %.
"""

import math

import msgspec
from msgspec.structs import replace

from training.recipes.config import TrainConfig
from twotower.metrics.names import HEADLINE, LOSSES

SAMPLE_ANSWERS = 10_000  # of the validation sample to stop by
MIN_ANSWERS = 1_000  # with fewer the best evaluation is the best by chance


class EarlyStopping(msgspec.Struct, frozen=True, kw_only=True):
    """The evaluations of a run so far and the best of them, which is of an earlier stage if none of this stage was better."""

    num_evaluations: int = 0
    before_stage: int = 0  # evaluations when the stage began
    best: int = 0  # number of the best evaluation, the first is 1; 0 if there is none yet
    best_step: int = 0
    best_value: float = 0.0

    @property
    def waited(self) -> int:
        """Evaluations of this stage since the last improvement."""
        return self.num_evaluations - max(self.best, self.before_stage)


class StageEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a stage ended, and the weights that were kept: the next stage begins from them, or the bundle is made of them."""

    stage: int
    step: int  # of the whole run, the last of the stage
    stopped_early: bool  # otherwise by the recipe's limit
    metric: str
    kept_step: int
    kept_value: float
    kept_evaluation: int  # of num_evaluations
    num_evaluations: int  # of the whole run


def stop_metric(config: TrainConfig) -> str:
    """The name in evaluations of the metric that the recipe was chosen by. ValueError if it is not one to stop by."""
    name = config.metric.split()[-1].lower()
    if name not in (known := HEADLINE.keys() - LOSSES):
        raise ValueError(
            f"a run with patience stops by the recipe's metric, and {config.metric!r} does not end with one of "
            f"{', '.join(sorted(known))}: change the recipe's metric, or leave out --patience"
        )
    return name


def evaluated(so_far: EarlyStopping, step: int, value: float) -> EarlyStopping:
    """With the evaluation of a step added. NaN, the mean of nothing, is no improvement."""
    number = so_far.num_evaluations + 1
    if math.isnan(value) or (so_far.best and value <= so_far.best_value):
        return replace(so_far, num_evaluations=number)
    return replace(so_far, num_evaluations=number, best=number, best_step=step, best_value=value)


def out_of_patience(config: TrainConfig, so_far: EarlyStopping) -> bool:
    """Whether the stage is to stop."""
    return config.patience is not None and so_far.waited >= config.patience


def enough_to_stop_by(num_answers: int) -> bool:
    """Whether the differences between evaluations on so many answers are more than chance."""
    return num_answers >= MIN_ANSWERS


def too_few(config: TrainConfig, num_answers: int) -> str:
    """The sentence for a validation part that is too small."""
    return (
        f"no early stopping: the validation part has {num_answers:,} answers, and by fewer than {MIN_ANSWERS:,} the best of the "
        f"evaluations is chosen by chance; the run goes to its limit with patience {config.patience} ignored. Move "
        f"validation_from in the schema's split to an earlier day."
    )


def describe(end: StageEnd) -> str:
    """How the stage ended, in a sentence or two."""
    how = (
        f"stopped early at step {end.step:,}, {end.num_evaluations - end.kept_evaluation} evaluations after the best"
        if end.stopped_early
        else f"ended at its limit, step {end.step:,}"
    )
    kept = f"stage {end.stage} {how}; the weights of step {end.kept_step:,} are kept ({end.metric} {end.kept_value:.4f})"
    if end.stopped_early and end.kept_evaluation == 1:
        return f"{kept}. No evaluation was better than the first: is the learning rate too high, or are evaluations too rare?"
    return kept
