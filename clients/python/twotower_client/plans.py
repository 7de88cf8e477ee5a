"""What the server answers to a question for a training plan.

Made by clients/generate.py from the types of the server: run it after a change there.
"""

import msgspec


class SizeChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The compute-optimal size and data at a budget, by one source."""

    source: str  # published points, published law, or your law
    parameters: float  # N, of both towers
    events: float  # D, read in training, repeats counted
    events_per_parameter: float  # D/N; models of text take about 20


class PublishedBudget(msgspec.Struct, frozen=True, kw_only=True):
    """One of the five published budgets, and how far the law through them is off."""

    flops: float  # C
    parameters: float  # N* = sqrt(C / (6 D/N))
    events: float  # D*
    events_per_parameter: float  # as published
    events_per_parameter_by_law: float  # by the line through all five
    law_error: float  # of the law's events per parameter, as a share: 0.29 is 29 % too many


class Exponents(msgspec.Struct, frozen=True, kw_only=True):
    """N ~ C^parameters and D ~ C^events, by least squares through the five published points."""

    parameters: float  # published as 0.617
    events: float  # published as 0.383
    standard_error: float  # of both
    half_width_95: float  # of the 95 % interval, with three degrees of freedom


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its 95 % interval. A bound that the runs do not give is infinite, and null in the file."""

    value: float
    low: float | None
    high: float | None


class FittedExponents(msgspec.Struct, frozen=True, kw_only=True):
    """The exponents of your law, each with its 95 % interval."""

    corpus: str  # that its runs were on
    parameters: Interval  # of N* in C
    events: Interval  # of D* in C


class ModelSizes(msgspec.Struct, frozen=True, kw_only=True):
    """The two towers that can be built and are nearest to the optimum."""

    parameters: int
    embedder_parameters: int
    embedder_share: float
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_width: int
    embedder: str  # the kind of embedder
    embedder_layers: int
    embedder_hidden: int  # width of the embedder's hidden layer
    embedder_table_rows: int


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Batch, steps and learning rate."""

    batch: int  # queries of a step
    batch_windows: int  # histories of 256 events that they stand in
    knee_low: int | None  # queries above which the metric gains little from a larger batch; null where none is known
    knee_high: int | None
    knee: str  # the same in words
    throughput_batch: int  # the batch that the paper ships for throughput
    steps: int  # of both stages
    warmup_steps: int  # the first 5 %
    learning_rate: float  # at its peak: 2e-3 sqrt(batch / 512), then a cosine to zero


class NegativesChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Candidates of stage 2, which freezes the embedder."""

    candidates: int  # of each query
    whole_catalogue: bool  # whether they are all items, which makes the loss exact
    published: int  # what the paper's optimum is at this budget
    as_dear_as_the_model: int  # with so many, scoring costs as much as everything else in a step


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """FLOPs of the run, by the convention and with every term."""

    model_flops: float  # 6 N D
    exact_flops: float  # every term of every step, and one encoding of the catalogue
    stage_1: dict[str, float]  # share of each term in a step
    stage_2: dict[str, float]
    events_if_all_count: float | None  # D that the budget pays for when every term counts; null if not one step


class MemoryNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a run, and the devices that they need."""

    model: float  # weights, gradients and two moments
    activations: float  # kept for the backward pass
    vectors: float  # of all items, or of the candidates where the number of items is not known
    popularity: float  # of every item on every day of a year
    tiles: float  # scores in use, and the candidates copied for them
    scores_if_held: float  # what a matrix of all scores of a step would take; it is never made
    total: float
    available: float | None  # of one device, as given
    shards: int | None  # devices over which the run must be split; 1 where it fits
    binds: str  # what does not fit: `candidates`, `model`, or nothing


class HardwareTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long the plan takes on one machine."""

    hardware: str
    flops_per_second: float | None  # that training reaches, every term counted; null where it was not measured
    seconds: float | None
    source: str  # where the rate comes from


class ExpectedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """The metric that a fitted law expects, with the 95 % interval of one further run."""

    value: float | None
    low: float | None
    high: float | None
    source: str  # the law's corpus and range, or why there is no estimate


class DataNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """The events that there are, beside those that the optimum reads."""

    events: float  # distinct ones
    passes: float  # how often the optimum reads each
    worth: float  # fresh events that are worth as much, by a law of texts (Muennighoff et al. 2023)
    budgets: dict[str, float]  # FLOPs whose optimum reads the data 1, 4 and 16 times


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a budget of compute is best spent on, by what is published and by your own law if there is one."""

    flops: float  # the budget, as C of 6 N D
    metric: str  # the metric that is served
    choices: list[SizeChoice]  # by the published points, by the published law, and by your law; the plan follows the first
    published: list[PublishedBudget]  # what the plan stands on
    exponents: Exponents  # of the published law
    fitted: FittedExponents | None  # of your law; null without one, or where it has none for the metric
    model: ModelSizes  # the towers to train
    events: float  # D of 6 N D with the parameters of this model
    schedule: Schedule  # how to train them
    negatives: NegativesChoice  # what stage 2 scores
    cost: Cost  # in FLOPs
    memory: MemoryNeeds  # in bytes, of stage 2
    times: list[HardwareTime]  # on hardware that was measured, and on yours
    expected: ExpectedMetric  # what the metric will be
    data: DataNeeds | None  # null where the number of events is not given
    assumptions: list[str]  # what is taken for granted, because it was not asked
    warnings: list[str]  # what to think about before spending the budget
