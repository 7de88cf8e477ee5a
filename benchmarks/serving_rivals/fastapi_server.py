"""The competitor of rps_vs_fastapi: the same model as a competent team would serve it with FastAPI, pydantic, torch and FAISS.

It has every optimisation that is easy to get: one uvicorn process with uvloop and httptools, no access log, async handlers,
small pydantic models, one thread for the model so that requests do not compete for the core, as many threads for torch and
FAISS as there are cores, and histories in memory that are encoded on arrival (ours are on disk before they are acknowledged).
It does not batch, cache keys and values, or refuse requests that would be late, because the comparison measures the gain from
these.

`python -m benchmarks.serving_rivals.fastapi_server STORE PORT`
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from benchmarks.serving_rivals.plain_model import Events, PlainModel, Question, Told


class Event(BaseModel):
    """One event of a user."""

    user_id: str = Field(min_length=1, max_length=128)
    item_id: str = Field(min_length=1, max_length=128)
    event_type: str = Field(min_length=1, max_length=128)
    timestamp: int
    properties: dict[str, str | float | None] = {}


class EventsRequest(BaseModel):
    """Body of POST /v1/events."""

    events: list[Event] = Field(max_length=1024)


class EventsResponse(BaseModel):
    """Number of accepted events."""

    accepted: int


class RecommendRequest(BaseModel):
    """Body of POST /v1/recommend."""

    user_id: str = Field(min_length=1, max_length=128)
    num_results: int = Field(default=10, ge=1, le=500)
    timestamp: int


class Item(BaseModel):
    """One item of an answer."""

    item_id: str
    score: float


class RecommendResponse(BaseModel):
    """An answer, best item first."""

    items: list[Item]


def build_app(model: PlainModel) -> FastAPI:
    """The FastAPI application for a model."""
    app, pool = FastAPI(), ThreadPoolExecutor(1, "model")
    histories: dict[str, Events] = {}

    @app.post("/v1/events", status_code=202)
    async def events(body: EventsRequest) -> EventsResponse:
        by_user: dict[str, list[Told]] = {}
        for event in body.events:
            told = Told(event.item_id, event.event_type, event.timestamp, event.properties)
            by_user.setdefault(event.user_id, []).append(told)
        for user_id, told_events in by_user.items():
            encoded = model.encode(told_events)
            histories[user_id] = histories[user_id].followed_by(encoded) if user_id in histories else encoded
        return EventsResponse(accepted=len(body.events))

    @app.post("/v1/recommend")
    async def recommend(body: RecommendRequest) -> RecommendResponse:
        question = Question(histories.get(body.user_id) or model.encode([]), body.timestamp, body.num_results)
        (ranked,) = await asyncio.get_running_loop().run_in_executor(pool, model.recommend, [question])
        return RecommendResponse(items=[Item(item_id=item_id, score=score) for item_id, score in ranked])

    return app


def main() -> None:
    """Serve until the process is stopped."""
    store, port = Path(sys.argv[1]), int(sys.argv[2])
    model = PlainModel.load(store, len(os.sched_getaffinity(0)))
    uvicorn.run(build_app(model), port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
