import asyncio

import msgspec
from starlette.types import Message

from benchmarks.serving_rivals.empty_app import BODY, empty_app
from loadtests.generator import Answer
from loadtests.traffic import NUM_RESULTS


def test_it_reads_the_whole_body_and_answers_what_the_generator_counts() -> None:
    parts = iter([{"body": b"a", "more_body": True}, {"body": b"b", "more_body": False}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(parts)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(empty_app({}, receive, send))
    assert next(parts, None) is None
    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % len(sent[1]["body"])
    assert len(msgspec.json.decode(BODY, type=Answer).items) == NUM_RESULTS
