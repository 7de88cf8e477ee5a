import asyncio
from functools import partial
from typing import cast

from benchmarks.servers.null_engine import RANKING, NullEngine
from service.history import UserHistory
from service.index import LoadedRelease
from service.recommender import recommend
from service.schemas import RecommendRequest


def test_it_answers_recommendations_without_looking_and_does_all_other_work() -> None:
    async def run() -> None:
        engine = NullEngine(1, 8)
        engine.start()
        question = partial(recommend, cast(LoadedRelease, None), RecommendRequest(), UserHistory(), 0)
        assert await engine.submit(question, 0.0) is RANKING
        assert await engine.submit(lambda: 7, float("inf")) == 7
        engine.close()

    asyncio.run(run())
