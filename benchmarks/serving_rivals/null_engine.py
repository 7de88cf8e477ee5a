"""`twotower serve` with an engine that has its answer ready: what is left of a request is the server's own work.

`python -m benchmarks.serving_rivals.null_engine ARGUMENTS`, those of `twotower serve`.
"""

import sys
from typing import Any

from loadtests.traffic import NUM_RESULTS
from service import app, command
from service.api.schemas import Recommended, RecommendRequest
from service.engine.thread import Batched, Engine, Place
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest

ITEMS = [Recommended(item_id=f"item-{number}", score=1 / (1 + number)) for number in range(NUM_RESULTS)]
RANKING = Ranking(items=ITEMS, events_used=50, events_ignored=0, missing_item_ids=[], degraded=[])


class NullEngine(Engine):
    """Answers recommendations without the model, and leaves all other work to the engine."""

    async def submit_to(self, batched: Batched, argument: Any, place: Place) -> Any:
        """See Engine."""
        if not isinstance(argument, UserRequest) or not isinstance(argument.request, RecommendRequest):
            return await super().submit_to(batched, argument, place)
        place.give_back()
        return RANKING


if __name__ == "__main__":
    app.Engine = NullEngine  # type: ignore[attr-defined] # where the app finds its engine
    sys.exit(command.main(sys.argv[1:]))
