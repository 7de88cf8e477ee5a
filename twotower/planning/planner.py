"""Plans a training run for a budget of FLOPs, a catalogue and the metric that is served.

C: FLOPs, N: parameters, D: events, K: candidates
"""

import math

import msgspec

from twotower.planning.batch_choice import KNEES, THROUGHPUT_BATCH, batch_for, check_metric, knee_told
from twotower.planning.compute_optimal import (
    Allocation,
    compute_optimal,
    fitted_law,
    flops_for_parameters,
    law_error,
    num_negatives,
    published,
    published_slope,
    short,
)
from twotower.planning.flops import Composition, StepFlops, model_flops, step_flops
from twotower.planning.hardware import times
from twotower.planning.law import Law
from twotower.planning.length import StagePlan, events_by_convention, events_for, run_flops
from twotower.planning.memory_needs import memory_needs
from twotower.planning.plan_warnings import (
    PAST_ITEMS,
    SHARE,
    WINDOW,
    assumptions,
    data_warnings,
    memory_warnings,
    negatives_warnings,
    size_warnings,
)
from twotower.planning.repeated_data import budgets_of, worth
from twotower.planning.sizes import (
    Sizes,
    contextualizer_parameters,
    embedder_parameters,
    of_shape,
    shape_for,
    smallest_model,
    with_embedder,
)
from twotower.planning.training_plan import (
    Cost,
    DataNeeds,
    ExpectedMetric,
    Exponents,
    FittedExponents,
    ModelSizes,
    NegativesChoice,
    PublishedBudget,
    Schedule,
    SizeChoice,
    TrainingPlan,
)

MOST_FLOPS, MOST_COUNTED = 1e24, 1e15  # of a plan; items or events
TOLERANCE = 0.2  # how far a model may be from N* where none is nearer: small ones differ by a whole layer
UNIFORM = 4096  # negatives drawn in stage 1
STAGE_1, STAGE_2 = 0.6, 0.4  # shares of the steps, as in the recipe `from_budget`
PEAK_RATE, RATE_BATCH, WARMUP = 2e-3, 512, 0.05


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is wanted for. Only budget and metric must be given."""

    flops: float
    metric: str | None
    items: float | None = None  # of the catalogue
    events: float | None = None  # distinct ones, of the training part
    gpu_memory: float | None = None  # bytes of one device
    rate: float | None = None  # FLOPs that the hardware does in a second

    def __post_init__(self) -> None:
        check_metric(self.metric)
        for name, value in (("items", self.items), ("events", self.events)):
            if value is not None and not 1 <= value <= MOST_COUNTED:
                raise ValueError(f"{name} is {value}: give how many there are, such as 1e6")


def plan(ask: Ask, law: Law | None = None) -> TrainingPlan:
    """The plan. ValueError for a budget that no model fits, or none that a device holds."""
    metric, best = check_metric(ask.metric), compute_optimal(ask.flops)
    sizes = sizes_for(best)
    parameters = contextualizer_parameters(sizes) + embedder_parameters(sizes)
    events = events_by_convention(ask.flops, parameters)
    schedule = schedule_for(metric, events)
    candidates = num_negatives(ask.flops) if ask.items is None else min(num_negatives(ask.flops), round(ask.items))
    stages = stages_for(schedule, candidates)
    cost = cost_of(ask, sizes, stages, events)
    memory = memory_needs(sizes, stages[1].batch, candidates, ask.items, ask.gpu_memory)
    data = None if ask.events is None else data_needs(ask.events, events)
    negatives = NegativesChoice(
        candidates=candidates,
        whole_catalogue=ask.items is not None and candidates >= ask.items,
        published=num_negatives(ask.flops),
        as_dear_as_the_model=balanced_candidates(sizes, stages[1].batch),
    )
    model = model_sizes(sizes)
    return TrainingPlan(
        flops=ask.flops,
        metric=metric,
        choices=choices(ask.flops, metric, law),
        published=published_table(),
        exponents=exponents(),
        fitted=fitted_exponents(metric, law),
        model=model,
        events=events,
        schedule=schedule,
        negatives=negatives,
        cost=cost,
        memory=memory,
        times=times(cost.exact_flops, ask.rate),
        expected=expected_metric(metric, ask.flops, law),
        data=data,
        assumptions=assumptions(ask.items is not None),
        warnings=[
            *size_warnings(ask.flops, model),
            *negatives_warnings(ask.flops, cost, negatives),
            *memory_warnings(memory),
            *data_warnings(data),
        ],
    )


def sizes_for(best: Allocation) -> Sizes:
    """The sizes that can be built and are nearest to an optimum; ValueError with the smallest budget where none is."""
    if best.flops > MOST_FLOPS:
        raise ValueError(
            f"{best.flops:.3g} FLOPs are too many to plan: nothing is published beyond 1e19, and a law is not followed beyond "
            f"{MOST_FLOPS:.0e}"
        )
    smallest = smallest_model(SHARE)
    if best.parameters * (1 + TOLERANCE) < smallest:
        least = flops_for_parameters(smallest / (1 + TOLERANCE))
        raise ValueError(
            f"the optimum for {best.flops:.3g} FLOPs has {short(best.parameters)} parameters, and the smallest model has "
            f"{short(smallest)}: give at least {least:.2g} FLOPs"
        )
    wanted = max(best.parameters, smallest)
    try:
        shape = shape_for(wanted, SHARE)  # as the recipe `from_budget` takes
    except ValueError:
        shape = shape_for(wanted, SHARE, TOLERANCE)
    return with_embedder(of_shape(shape), SHARE)


def model_sizes(sizes: Sizes) -> ModelSizes:
    """The sizes of both towers, as they are printed."""
    embedder, rest = embedder_parameters(sizes), contextualizer_parameters(sizes)
    return ModelSizes(
        parameters=embedder + rest,
        embedder_parameters=embedder,
        embedder_share=embedder / (embedder + rest),
        width=sizes.width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        ffn_width=sizes.ffn_width,
        embedder=sizes.embedder,
        embedder_layers=2,
        embedder_hidden=sizes.embedder_hidden,
        embedder_table_rows=sizes.table_rows,
    )


def schedule_for(metric: str, events: float) -> Schedule:
    """Batch, steps and learning rate for a run that reads so many events."""
    batch, knee = batch_for(events), KNEES.get(metric)
    steps = math.ceil(events / batch)
    return Schedule(
        batch=batch,
        batch_windows=max(1, batch // WINDOW),
        knee_low=knee.low if knee else None,
        knee_high=knee.high if knee else None,
        knee=knee_told(metric),
        throughput_batch=THROUGHPUT_BATCH,
        steps=steps,
        warmup_steps=math.ceil(WARMUP * steps),
        learning_rate=PEAK_RATE * math.sqrt(batch / RATE_BATCH),
    )


def stages_for(schedule: Schedule, candidates: int) -> tuple[StagePlan, StagePlan]:
    """Both stages over full windows, in which every event is a query. Stage 1 scores the batch's own items too."""
    batch, length = schedule.batch, min(WINDOW, schedule.batch)
    read = Composition(
        events=batch,
        positions=batch,
        attention_pairs=batch * (length + 1) / 2,
        queries=batch,
        candidates=candidates,
        past_items=batch * PAST_ITEMS,
        past_pairs=batch * PAST_ITEMS,
        distinct_past=batch,
    )
    scored = UNIFORM + batch
    both = msgspec.structs.replace(read, candidates=scored, distinct_past=scored, distinct_items=scored)
    return (
        StagePlan(share=STAGE_1, batch=both, trains_embedder=True),
        StagePlan(share=STAGE_2, batch=read, trains_embedder=False),
    )


def cost_of(ask: Ask, sizes: Sizes, stages: tuple[StagePlan, StagePlan], events: float) -> Cost:
    """FLOPs of the run, and the events that the budget pays for when every term counts. A GPU computes stage 1's scores twice."""
    items, on_gpu = ask.items or stages[1].batch.candidates, ask.gpu_memory is not None
    try:
        paid = events_for(ask.flops, sizes, stages, items, recomputes=on_gpu).events
    except ValueError:
        paid = None
    first, second = (step_flops(sizes, s.batch, trains_embedder=s.trains_embedder, recomputes=on_gpu) for s in stages)
    return Cost(
        model_flops=model_flops(sizes, events),
        exact_flops=run_flops(sizes, stages, events, items, recomputes=on_gpu),
        stage_1=_shares(first),
        stage_2=_shares(second),
        events_if_all_count=paid,
    )


def _shares(step: StepFlops) -> dict[str, float]:
    return {name: value / step.total for name, value in msgspec.structs.asdict(step).items()}


def balanced_candidates(sizes: Sizes, batch: Composition) -> int:
    """Candidates with which scoring costs as much as all else in a step of stage 2."""
    without, one = (msgspec.structs.replace(batch, candidates=count) for count in (0, 1))
    rest, more = (step_flops(sizes, of, trains_embedder=False).total for of in (without, one))
    return round(rest / (more - rest))


def data_needs(distinct: float, events: float) -> DataNeeds:
    """How often the optimum reads the events that there are, and what that is worth."""
    budgets = {str(passes): flops for passes, flops in budgets_of(distinct).items()}
    return DataNeeds(events=distinct, passes=events / distinct, worth=worth(distinct, events), budgets=budgets)


def choices(flops: float, metric: str, law: Law | None) -> list[SizeChoice]:
    """Sizes by the published points, by the published law and, if it knows the metric, by the fitted one."""
    found = [_choice("published points", compute_optimal(flops)), _choice("published law", fitted_law(flops))]
    own = law.metrics.get(metric) if law else None
    if own and own.parameters and own.events:
        parameters, events = own.parameters.at(flops), own.events.at(flops)
        found.append(_choice("your law", Allocation(flops, parameters, events)))
    return found


def _choice(source: str, best: Allocation) -> SizeChoice:
    return SizeChoice(
        source=source, parameters=best.parameters, events=best.events, events_per_parameter=best.events_per_parameter
    )


def published_table() -> list[PublishedBudget]:
    """The five published budgets beside the law."""
    return [
        PublishedBudget(
            flops=point.flops,
            parameters=point.parameters,
            events=point.events,
            events_per_parameter=point.events_per_parameter,
            events_per_parameter_by_law=fitted_law(point.flops).events_per_parameter,
            law_error=law_error(point.flops),
        )
        for point in published()
    ]


def exponents() -> Exponents:
    """Those of the published law, fitted anew."""
    slope = published_slope()
    return Exponents(
        parameters=slope.exponent,
        events=1 - slope.exponent,
        standard_error=slope.standard_error,
        half_width_95=slope.half_width,
    )


def fitted_exponents(metric: str, law: Law | None) -> FittedExponents | None:
    """Those of the fitted law for the metric, if it has any."""
    own = law.metrics.get(metric) if law else None
    if law is None or own is None or own.parameters is None or own.events is None:
        return None
    return FittedExponents(corpus=law.corpus, parameters=own.parameters.exponent, events=own.events.exponent)


def expected_metric(metric: str, flops: float, law: Law | None) -> ExpectedMetric:
    """What the fitted law expects, or why there is no estimate."""
    if law is None:
        source = "no estimate: that takes a law fitted to runs on your data, which `twotower plan --law` reads"
        return ExpectedMetric(value=None, low=None, high=None, source=source)
    if (found := law.expected(metric, flops)) is None:
        return ExpectedMetric(value=None, low=None, high=None, source=law.why_not(metric, flops))
    beyond = ", beyond its runs" if law.is_beyond_the_runs(flops) else ""
    source = f"{law.corpus}, fitted to {law.smallest_flops:.2g} to {law.largest_flops:.2g} FLOPs, every term counted{beyond}"
    return ExpectedMetric(value=found.value, low=found.low, high=found.high, source=source)
