"""A plan as tables for the terminal."""

from collections.abc import Iterator

from twotower.planning.compute_optimal import short
from twotower.planning.memory_needs import told
from twotower.planning.training_plan import TrainingPlan
from twotower.terminal import TextTable, console, styled

WIDTH = 118
LEAST_SHARE = 0.02  # of a step; smaller terms are not shown
DAY_S, YEAR_S = 86_400, 365.25 * 86_400


def show(plan: TrainingPlan) -> None:
    """Print the plan to stdout."""
    out = console()
    if not out.is_terminal:
        out.width = WIDTH
    out.print(styled(f"A plan for {plan.flops:.3g} FLOPs, for {plan.metric}", "bold"))
    out.print(_sizes(plan))
    table = TextTable(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for label, value in _rows(plan):
        table.add_row(label, value)
    out.print(table)
    if plan.warnings:
        out.print()
    for warning in plan.warnings:
        out.print(styled(f"! {warning}", "yellow"))
    for assumption in plan.assumptions:
        out.print(styled(f"assumed: {assumption}", "dim"))


def _sizes(plan: TrainingPlan) -> TextTable:
    """The optimum by each source, and beside it how far the law is off at the published budgets."""
    table = TextTable(box=None, pad_edge=False)
    for heading in ("optimum by", "N", "D", "D/N", "", "published", "D/N", "by the law", "off by"):
        table.add_column(heading, justify="left" if heading == "optimum by" else "right", min_width=3)
    for place, point in enumerate(plan.published):
        own = [""] * 4
        if place < len(plan.choices):
            choice = plan.choices[place]
            own = [choice.source, short(choice.parameters), short(choice.events), f"{choice.events_per_parameter:.0f}"]
        known = (f"{point.flops:.0e}", f"{point.events_per_parameter:.0f}", f"{point.events_per_parameter_by_law:.0f}")
        table.add_row(*own, "", *known, f"{point.law_error:+.0%}")
    return table


def _rows(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    law, model, schedule, negatives = plan.exponents, plan.model, plan.schedule, plan.negatives
    yield (
        "law",
        (
            f"N ~ C^{law.parameters:.3f}, D ~ C^{law.events:.3f}; standard error {law.standard_error:.4f}, 95 % interval "
            f"±{law.half_width_95:.3f}"
        ),
    )
    if plan.fitted is not None:
        yield "your law", f"N ~ C^{plan.fitted.parameters}, D ~ C^{plan.fitted.events}; 95 % intervals, {plan.fitted.corpus}"
    yield "model", f"{short(model.parameters)} parameters, {short(plan.events)} events"
    heads = f"{model.num_heads} heads ({model.num_kv_heads} of keys)"
    yield "contextualizer", f"{model.width} wide, {model.num_layers} layers, {heads}, feed-forward {model.ffn_width}"
    yield (
        "embedder",
        (
            f"{model.embedder_share:.1%}: {model.embedder}, {model.embedder_layers} layers, {model.embedder_hidden} wide, "
            f"{model.embedder_table_rows:,} rows of hash table"
        ),
    )
    windows = "1 window" if schedule.batch_windows == 1 else f"{schedule.batch_windows} windows"
    why = "for throughput" if schedule.batch == schedule.throughput_batch else "so that there are enough steps"
    yield "batch", f"{schedule.batch:,} queries in {windows}, {why}; {schedule.knee}"
    warmup = f"the first {schedule.warmup_steps:,} to warm up"
    yield "steps", f"{schedule.steps:,}, {warmup}; learning rate {schedule.learning_rate:.2g}, then a cosine to zero"
    scope = "all items, so the loss is exact" if negatives.whole_catalogue else f"published are {negatives.published:,}"
    dear = f"{negatives.as_dear_as_the_model:,} cost as much as the model"
    yield "negatives", f"{negatives.candidates:,} after freezing ({scope}); {dear}"
    yield from _cost_rows(plan)
    yield from _known_rows(plan)


def _cost_rows(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    cost, memory = plan.cost, plan.memory
    paid = "not one step" if cost.events_if_all_count is None else f"{short(cost.events_if_all_count)} events"
    yield (
        "FLOPs",
        f"{cost.model_flops:.2g} by 6ND, {cost.exact_flops:.2g} with every term; counting all, the budget pays for {paid}",
    )
    for label, shares in (("  stage 1", cost.stage_1), ("  stage 2", cost.stage_2)):
        largest = sorted(shares.items(), key=lambda term: -term[1])
        yield label, ", ".join(f"{name.replace('_', ' ')} {share:.0%}" for name, share in largest if share >= LEAST_SHARE)
    parts = (
        ("model", memory.model),
        ("activations", memory.activations),
        ("vectors", memory.vectors),
        ("popularity", memory.popularity),
        ("tiles", memory.tiles),
    )
    yield "memory", f"{told(memory.total)}: {', '.join(f'{name} {told(size)}' for name, size in parts)}"
    yield "", f"scores {told(memory.tiles)} in tiles instead of {told(memory.scores_if_held)} at once"
    if memory.shards is not None:
        devices = "one device" if memory.shards == 1 else f"{memory.shards} devices"
        yield "", f"needs {devices} of {told(memory.available or 0)}"


def _known_rows(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    """Time, the expected metric and the data, each with where it comes from."""
    for place, time in enumerate(plan.times):
        label = "" if place else "time"
        if time.seconds is None or time.flops_per_second is None:
            yield label, f"{time.hardware}: {time.source}"
        else:
            yield label, f"{time.hardware}: {_duration(time.seconds)} at {time.flops_per_second:.2g} FLOP/s, {time.source}"
    expected = plan.expected
    if expected.value is None:
        yield plan.metric, expected.source
    else:
        yield plan.metric, f"{expected.value:.4g} [{expected.low:.4g}, {expected.high:.4g}]: {expected.source}"
    if plan.data is not None:
        data = plan.data
        read = f"read {data.passes:,.3g} times each: worth {short(data.worth)} fresh ones by a law of texts"
        if data.passes <= 1:
            read = f"of which the optimum reads {short(plan.events)}"
        yield "data", f"{short(data.events)} events, {read}"
        bear = ", ".join(f"{flops:.2g} FLOPs read {passes} times" for passes, flops in data.budgets.items())
        yield "", f"they bear {bear}".replace("1 times", "once", 1)


def _duration(seconds: float) -> str:
    for size, unit in ((YEAR_S, "years"), (DAY_S, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.0f} s"
