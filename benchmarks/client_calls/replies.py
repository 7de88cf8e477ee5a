"""Makes all calls on a server with the client's two classes, and says what went wrong with which of them."""

import asyncio
from pathlib import Path
from typing import Any

from behaviorgpt import AsyncUnboxAIClient, UnboxAIClient, UnboxAIError

from benchmarks.client_calls.calls import CALLS, Call, Known, is_right

Problems = dict[str, str]  # by call: what went wrong; empty for a call that passed


def made_by_sync_client(address: str, file: Path, key: str = "any") -> Problems:
    """The problem of each call, made by UnboxAIClient."""
    client, known, found = UnboxAIClient("us", api_key=key, base_url=f"{address}/v1"), Known(file, "sync-shopper"), Problems()
    for call in CALLS:
        try:
            result = call.ask(client, known)
        except Exception as error:  # whatever the client raises is the outcome of the call
            result = error
        found[call.name] = problem_of(call, known, result)
    client.recommendations._client.close()  # UnboxAIClient has no method for that
    return found


def made_by_async_client(address: str, file: Path, key: str = "any") -> Problems:
    """The problem of each call, made by AsyncUnboxAIClient."""

    async def run() -> Problems:
        known, found = Known(file, "async-shopper"), Problems()
        async with AsyncUnboxAIClient("us", api_key=key, base_url=f"{address}/v1") as client:
            for call in CALLS:
                try:
                    result = await call.ask(client, known)
                except Exception as error:  # whatever the client raises is the outcome of the call
                    result = error
                found[call.name] = problem_of(call, known, result)
        return found

    return asyncio.run(run())


def problem_of(call: Call, known: Known, result: Any) -> str:
    """What is wrong with the result of a call, or with the error that it raised; empty if nothing is."""
    if isinstance(result, Exception) and not isinstance(result, UnboxAIError):
        return f"{type(result).__name__}: {result}"
    try:
        return "" if is_right(call, known, result) else f"it gave {result!r:.300}"
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # the result is not of the form that the check reads
        return f"it gave {result!r:.300}, whose check failed: {error!r}"


def num_passed(*outcomes: Problems) -> int:
    """How many calls passed."""
    return sum(not problem for found in outcomes for problem in found.values())
