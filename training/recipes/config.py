"""The configuration of a training run: frozen, checked when made, written into the provenance of the bundle."""

from typing import Literal

import msgspec

ProtocolName = Literal["next-basket", "next-event", "leave-one-out"]


Negatives = Literal["uniform", "popular", "popular_uncorrected"]


class StageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of training. It ends after its share of the run's minutes or, in a run without minutes, after `max_steps`."""

    share: float  # of the whole run, and so of the learning rate's schedule
    num_negatives: int | None  # drawn per step beside a query's past items and answers; None is the whole catalogue, exactly
    train_embedder: bool
    negatives: Negatives = "uniform"  # how they are drawn; only "popular_uncorrected" changes what the loss estimates
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: give a fraction in (0, 1]")
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"num_negatives is {self.num_negatives}: give a number, or None for the whole catalogue")
        if self.train_embedder and self.negatives != "uniform":
            raise ValueError("a stage that trains the embedder scores the batch's popular items anyway: leave negatives uniform")


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run. `metric` is the one that the recipe was chosen by."""

    metric: str
    protocol: ProtocolName = "next-basket"  # by which the model is evaluated
    minutes: float | None  # None: the stages' max_steps decide, and the same seed gives the same weights
    stages: tuple[StageConfig, ...]
    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    past_heads: int = 4  # of the attention over past items; 0 leaves it out, for where nothing is bought again
    embedder: str = "mlp"  # a name of `twotower.model.kinds`, or the user's own as module:Class
    embedder_share: float = 0.02  # of all trainable scalars, the compute-optimal share (Brüel Gabrielsson 2026)
    batch_windows: int = 8
    max_queries: int = 160  # at most so many basket boundaries of a batch are scored
    learning_rate: float = 2e-3  # at a batch of 512 queries; scaled by sqrt(queries / 512), as published there
    mup_base_width: int | None = None  # the width that learning_rate was chosen at; None: plain parametrisation
    schedule: Literal["cosine", "constant"] = "cosine"  # of the learning rate after the warm-up: to zero, or as it is
    warmup: float = 0.05  # share of the run
    weight_decay: float = 0.02  # of the contextualizer's matrices
    other_decay: float = 0.0  # of tables, norms and biases, which get gradients unevenly: only where a model overfits
    dropout: float = 0.1
    id_dropout: float = 0.1  # share of items per step that are embedded from their content alone
    search_share: float = 0.1  # of the queries, which follow a made-up search; only where the log has no searches of its own
    gradient_clip: float = 1.0
    plant_cold: float = 0.0  # share of the items whose events before the test part are hidden, for the cold-start protocol
    window: int = 256  # events that the contextualizer reads at most, as published there
    page: int = 64  # events between two moves of the window's anchor
    half_lives_days: tuple[float, ...] = (14.0, 2.0)  # the first of popularity, the others of its trends
    evaluations: int = 8  # on 3,000 validation answers each (10,000 with patience), evenly spread over the run; 0 for none
    patience: int | None = None  # evaluations without a better `metric` after which a stage stops; None: it ends at its limit
    checkpoint_minutes: float = 5.0  # between checkpoints, which is what a killed run loses at most
    prefetch: int = 0  # batches drawn ahead by a thread; slower on two cores (.45 s a step against .31)
    precision: Literal["fp32", "bf16"] = "fp32"  # of the arithmetic; weights stay fp32
    sharding: Literal["ddp", "fsdp"] = "ddp"  # under torchrun: all weights on every rank (ddp), or a part of each (fsdp)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:  # NaN is refused too
            raise ValueError(f"minutes is {self.minutes}: give a positive number, or None")
        if any((s.max_steps is None) == (self.minutes is None) for s in self.stages):
            raise ValueError("a run is limited by its minutes or by the max_steps of each of its stages: give one of the two")
        if self.evaluations < 0:
            raise ValueError(f"evaluations is {self.evaluations}: give a number, or 0")
        if self.patience is not None and (self.patience < 1 or not self.evaluations):
            raise ValueError(
                f"patience is {self.patience} with {self.evaluations} evaluations: give a number of evaluations to wait, and "
                f"evaluations above 0; or None"
            )
        if not 0 <= self.plant_cold <= 0.5:
            raise ValueError(f"plant_cold is {self.plant_cold}: give a share of the items, such as 0.05")
        if not 0 <= self.search_share <= 0.5:
            raise ValueError(
                f"search_share is {self.search_share}: give a share of the queries, such as 0.1; 0 makes up no searches"
            )
        if self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}: give a number of batches, or 0")
        if not 0 < self.embedder_share < 1:
            raise ValueError(f"embedder_share is {self.embedder_share}: give a fraction in (0, 1)")
        if abs(sum(s.share for s in self.stages) - 1) > 1e-9:
            raise ValueError("the stages' shares must add up to 1")
