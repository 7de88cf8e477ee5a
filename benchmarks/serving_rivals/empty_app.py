"""uvicorn with an application of which nothing is left: it reads the body and sends an answer that is ready.

`python -m benchmarks.serving_rivals.empty_app STORE PORT HISTORY`, as every competitor is started; only the port counts. Event
loop and parser are the same as ours.
"""

import sys

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.serving_rivals.null_engine import ITEMS
from service.api.schemas import RecommendResponse

ANSWER = RecommendResponse(
    recommendation_id="0" * 32,
    items=ITEMS,
    release="release",
    variant="default",
    events_used=50,
    events_ignored=0,
    missing_item_ids=[],
    history_seq=None,
    degraded=[],
    took_ms=0.1,
)
BODY = msgspec.json.encode(ANSWER)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def empty_app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, whatever it is, and send the answer."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(empty_app, port=int(sys.argv[2]), lifespan="off", access_log=False, log_level="warning")
