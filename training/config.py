"""What a training run is: frozen, checked when made, written into the bundle's provenance."""

import msgspec


class StageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of training. It ends at `share` of the run's time or after `max_steps`, whichever comes first."""

    share: float  # of the run's minutes
    num_uniform: int | None  # candidates drawn uniformly beside the batch's own; None is the whole catalogue, exactly
    train_embedder: bool
    max_steps: int = 1_000_000

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: give a fraction in (0, 1]")


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run. `metric` is what the deployment serves and what the recipe was chosen by."""

    metric: str
    minutes: float
    stages: tuple[StageConfig, ...]
    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    embedder_share: float = 0.02  # of all trainable scalars, the compute-optimal share (SCIENCE)
    batch_windows: int = 8
    max_queries: int = 160  # basket boundaries of a batch that are scored
    learning_rate: float = 2e-3  # at a batch of 512 queries; scaled by sqrt(queries / 512) (SCIENCE)
    warmup: float = 0.05  # of the run
    weight_decay: float = 0.02
    dropout: float = 0.1
    id_dropout: float = 0.1  # share of items per step that are embedded from their content alone
    gradient_clip: float = 1.0
    half_lives_days: tuple[float, ...] = (14.0,)  # of the popularity dimensions
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.minutes > 0:  # NaN is refused too
            raise ValueError(f"minutes is {self.minutes}: give a positive number")
        if not 0 < self.embedder_share < 0.5:
            raise ValueError(f"embedder_share is {self.embedder_share}: give a fraction in (0, 0.5)")
        if abs(sum(s.share for s in self.stages) - 1) > 1e-9:
            raise ValueError("the stages' shares must add up to 1")
