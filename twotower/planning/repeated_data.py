"""What events are worth that are read several times: D' = U + U R* (1 - exp(-R / R*)) (Muennighoff et al. 2023, eq. 5).

U is the number of distinct events, R how often they are read again. R* = 15.4 was fitted to texts. Nobody has published it for
events of users, so the result is a guide and not an estimate.

D: events
"""

import math

from twotower.planning.compute_optimal import flops_for_events

REPEATS_OF_TEXT = 15.4  # R*: after so many repeats 63 % of all that repeating can bring is there
PASSES = (1, 4, 16)  # up to 4 passes are nearly as good as new data; after 16 little is left to gain


def worth(distinct: float, read: float) -> float:
    """How many fresh events are worth as much as `read` events of which only `distinct` are distinct."""
    repeats = max(read / distinct - 1, 0.0)
    return min(read, distinct) + distinct * REPEATS_OF_TEXT * (1 - math.exp(-repeats / REPEATS_OF_TEXT))


def budgets_of(distinct: float) -> dict[int, float]:
    """The FLOPs at which the optimum reads the data once, 4 times and 16 times."""
    return {passes: flops_for_events(passes * distinct) for passes in PASSES}
