"""`twotower serve` with an engine that returns a ready answer, to measure the cost of the server without the model.

`python -m benchmarks.serving_rivals.null_engine ARGUMENTS`, those of `twotower serve`.
"""

import sys
from typing import Any

from loadtests.traffic import NUM_RESULTS
from service import app, command
from service.api.schemas import Recommended
from service.engine.thread import Batched, Engine
from service.ranking.rules import Ranking

ITEMS = [Recommended(item_id=f"item-{number}", score=1 / (1 + number)) for number in range(NUM_RESULTS)]
RANKING = Ranking(items=ITEMS, events_used=50, events_ignored=0, missing_item_ids=[], degraded=[])


class NullEngine(Engine):
    """Returns a ready answer to recommendations, the only batched work. All other work is done as usual."""

    async def submit_to(self, batched: Batched, argument: Any, cost: int, deadline_s: float) -> Any:  # noqa: ARG002
        """See Engine."""
        return RANKING


if __name__ == "__main__":
    app.Engine = NullEngine  # type: ignore[attr-defined] # where the app finds its engine
    sys.exit(command.main(sys.argv[1:]))
