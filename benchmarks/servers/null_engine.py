"""`twotower serve` with an engine that has its answer ready: what is left of a request is the server's own work.

`python -m benchmarks.servers.null_engine ARGUMENTS`, those of `twotower serve`.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from loadtests.traffic import NUM_RESULTS
from service import app, command
from service.engine import Engine
from service.recommender import Ranking, recommend
from service.schemas import Recommended

T = TypeVar("T")
ITEMS = [Recommended(item_id=f"item-{number}", score=1 / (1 + number)) for number in range(NUM_RESULTS)]
RANKING = Ranking(items=ITEMS, events_used=50, events_ignored=0, missing_item_ids=[], degraded=[])


class NullEngine(Engine):
    """Answers recommendations with what it has and leaves all other work to the engine."""

    async def submit(self, run: Callable[[], T], deadline_s: float) -> T:
        """See Engine."""
        if isinstance(run, functools.partial) and run.func is recommend:
            answer: Any = RANKING
            return answer  # type: ignore[no-any-return]
        return await super().submit(run, deadline_s)


if __name__ == "__main__":
    app.Engine = NullEngine  # type: ignore[attr-defined] # where the app finds its engine
    sys.exit(command.main(sys.argv[1:]))
