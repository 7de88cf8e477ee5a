import asyncio

from benchmarks.serving_rivals.null_engine import RANKING, NullEngine
from service.engine.thread import Batched


def test_it_answers_recommendations_without_looking_and_does_all_other_work() -> None:
    async def run() -> None:
        engine = NullEngine(1)
        engine.start()
        assert await engine.submit_to(Batched(lambda _, asked: asked, None), "a question", 1, float("inf")) is RANKING
        assert await engine.submit(lambda: 7, float("inf")) == 7
        engine.close()

    asyncio.run(run())
