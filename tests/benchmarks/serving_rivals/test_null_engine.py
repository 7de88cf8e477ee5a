import asyncio
import math
from typing import Any

from benchmarks.serving_rivals.null_engine import RANKING, NullEngine
from service.api.schemas import RecommendRequest
from service.api.scores import ScoreRequest
from service.engine.thread import Batched
from service.histories.history import UserHistory
from service.ranking.user_request import UserRequest


def test_it_answers_recommendations_without_looking_and_does_all_other_work() -> None:
    engine = NullEngine(1)

    async def submit(argument: Any) -> Any:
        place = engine.take_place(1, math.inf)
        try:
            return await engine.submit_to(Batched(lambda _, batch: ["done"] * len(batch), None), argument, place)
        finally:
            assert engine.reserved_cost == 0

    async def run() -> None:
        engine.start()
        assert await submit(UserRequest(RecommendRequest(), UserHistory(), 0)) is RANKING
        assert await submit(UserRequest(ScoreRequest(candidate_item_ids=["tea"]), UserHistory(), 0)) == "done"
        assert await submit(("user", "ann")) == "done"
        assert await engine.submit(lambda: 7, engine.take_place(0, math.inf)) == 7
        engine.close()

    asyncio.run(run())
