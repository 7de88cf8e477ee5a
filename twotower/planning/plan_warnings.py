"""What a plan takes for granted, and what it warns of: budgets beyond the published ones, dear scores, memory, short data."""

import math

from twotower.planning.compute_optimal import EVENTS_PER_PARAMETER, short
from twotower.planning.memory_needs import MemoryNeeds, told
from twotower.planning.training_plan import Cost, DataNeeds, ModelSizes, NegativesChoice

SHARE = 0.02  # of the embedder in N
WINDOW = 256  # events of a history, each a query
PAST_ITEMS = 128  # of a query: the mean over a full window whose items are all different
DEAR_SCORING = 0.5  # share of a step of stage 2 from which scoring is worth a warning
MOST_TRAINED, STILL_BETTER_AT = 2_000_000, 1e19  # candidates, and the budget at which every metric still improved there


def assumptions(knows_items: bool) -> list[str]:
    """What the plan takes for granted, because nobody has said otherwise."""
    found = [
        f"histories fill their windows of {WINDOW} events, every event is a query, and a query has {PAST_ITEMS} past items",
        "an item has an id, a title of twelve tokens, three categories and a number; an event has a type",
    ]
    if not knows_items:
        found.append("the catalogue is as large as the candidates of stage 2, because its size is not given")
    return found


def size_warnings(flops: float, model: ModelSizes) -> list[str]:
    """Where the published optimum does not reach."""
    least, most = min(EVENTS_PER_PARAMETER), max(EVENTS_PER_PARAMETER)
    found = []
    if not least <= flops <= most:
        decades = abs(math.log10(flops / (least if flops < least else most)))
        found.append(
            f"published are budgets of {least:.0e} to {most:.0e} FLOPs: this plan follows the law for {decades:.1f} decades more"
        )
    if model.embedder_share > 1.25 * SHARE:
        found.append(f"the smallest embedder is already {model.embedder_share:.1%} of so small a model")
    return found


def negatives_warnings(flops: float, cost: Cost, negatives: NegativesChoice) -> list[str]:
    """Where scores cost more than the model, and where still more candidates would be better."""
    share, found = cost.stage_2["scoring"] + cost.stage_2["popularity"], []
    if share > DEAR_SCORING:
        found.append(
            f"scoring {negatives.candidates:,} candidates is {share:.0%} of a step of stage 2, and the run costs "
            f"{cost.exact_flops / cost.model_flops:.2g} times 6ND: {negatives.as_dear_as_the_model:,} candidates would cost as "
            f"much as the model"
        )
    if flops >= STILL_BETTER_AT and not negatives.whole_catalogue:
        found.append(f"at {STILL_BETTER_AT:.0e} FLOPs every metric still improved at {MOST_TRAINED:,} candidates, the most tried")
    return found


def memory_warnings(memory: MemoryNeeds) -> list[str]:
    """What does not fit one device, and over how many it would."""
    if memory.available is None or memory.shards == 1:
        return []
    if memory.binds == "model":
        why = "weights and optimizer do not fit", "`--sharding fsdp` splits these, and nothing splits vectors yet"
    else:
        size = told(memory.vectors + memory.popularity)
        why = f"vectors and popularity of the items ({size}) do not fit", "`twotower train` does not split these yet"
    return [f"{why[0]} {told(memory.available)} beside the rest: split over {memory.shards} devices they would; {why[1]}"]


def data_warnings(data: DataNeeds | None) -> list[str]:
    """Where there are fewer events than the optimum reads."""
    if data is None or data.passes <= 1:
        return []
    return [
        (
            f"{short(data.events)} events are {data.passes:,.3g} times fewer than the optimum reads: bring more, spend less, or "
            f"let the validation part end the run (`twotower train --patience`)"
        )
    ]
