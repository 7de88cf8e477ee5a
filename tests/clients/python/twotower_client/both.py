"""Both clients behind one set of methods, so that one test does for both."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from twotower_client import AsyncClient


class Awaited:
    """An AsyncClient whose methods are awaited here."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client, self._runner = AsyncClient(*arguments, **options), asyncio.Runner()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            return self._iterate(result) if isinstance(result, AsyncIterator) else self._runner.run(result)

        return call

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def _iterate(self, results: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(results, None)

        while (result := self._runner.run(following())) is not None:
            yield result
