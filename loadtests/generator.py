"""The load generator: reads jobs as JSON lines from stdin, and writes measurements as JSON lines to stdout.

`python -m loadtests.generator PORT HISTORIES`, started by `loadtests.capacity` for benchmarks. Histories are real
(see loadtests.traffic). Each is replayed under several made-up user ids, as many as the job needs. A user is fresh until it gets
its first answer: the server has its events, but no cached state of it.
"""

import asyncio
import gc
import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import uvloop

from loadtests.connection import Connection, Reply
from loadtests.open_loop import Send, open_loop, poisson
from loadtests.traffic import EVENTS, MOMENT_MS, NUM_RESULTS, RECOMMEND, History, Json, Replay, read_histories

NUM_QUESTIONS = 5
INLINE_EVENTS = 50
WARM_S = 1.0  # warm-up of a closed loop, which is not measured
GRACE_S = 60.0  # a job fails when it takes so much longer than planned
TELLERS = 8  # connections that send first events
SCORE_TOLERANCE = 1e-3  # between two answers of one release, because rounding depends on the batch
REFUSED, REFUSALS = 503, (429, 503, 504)


# visits: a fresh user sends NUM_QUESTIONS requests, with a new event before each but the first. strangers: every request is the
# only one of a fresh user. regulars: all users ask in turn, again and again, without new events. inline: a request has no user
# but brings a history of INLINE_EVENTS events.
Work = Literal["visits", "strangers", "regulars", "inline"]


class Tell(msgspec.Struct, frozen=True, kw_only=True, tag="tell"):
    """Send the first events of so many more users."""

    num_users: int


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """A closed loop: each connection sends its next request when it has an answer."""

    work: Work
    connections: int
    seconds: float


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """An open loop: requests are a Poisson process, independent of answers. A refused stranger stays fresh and returns later."""

    work: Work  # not visits, in which each request waits for the answer before
    rate: float  # per second
    seconds: float
    timeout_ms: int | None = None  # in the request body


Job = Tell | Closed | Open


class Measured(msgspec.Struct, kw_only=True):
    """The measurements of a job. Times are in milliseconds; in an open loop, answers are timed from when the request was due."""

    seconds: float = 0.0  # measured time: of a closed loop for answers, of an open loop for requests
    answered_ms: list[float] = []
    refused_ms: list[float] = []  # status 429, 503 or 504; from when the request was sent
    late_ms: list[float] = []  # of an open loop: delay between when a request was due and when it was sent
    num_failed: int = 0  # other statuses, lost connections, and answers with too few items or degraded
    num_mixed: int = 0  # answers that differ from an earlier answer of the same release to the same request
    num_asked: int = 0  # all requests, including those before and after the measured time
    num_fresh: int = 0  # fresh users that are left
    cpu_s: float = 0.0  # CPU time of the generator


class Item(msgspec.Struct):
    """One item of an answer."""

    item_id: str
    score: float


class Answer(msgspec.Struct):
    """The fields of an answer that the generator reads."""

    items: list[Item]
    release: str = ""
    degraded: list[str] = []


NO_ANSWER = Answer([])
_answer = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what is needed to handle its answer."""

    body: bytes
    number: int | None = None  # of an inline history, to which every release has exactly one answer
    stranger: Replay | None = None


@dataclass(slots=True)
class Generator:
    """One server's load, and the users it has been told about."""

    port: int
    histories: list[History]
    fresh: deque[Replay] = field(default_factory=deque)
    seen: dict[tuple[int, str], Answer] = field(default_factory=dict)  # first answer, by question and release
    users: Iterator[Replay] = field(init=False)
    inline: Iterator[Question] = field(init=False)

    def __post_init__(self) -> None:
        self.users = (Replay.start(self.histories[n % len(self.histories)], str(n)) for n in itertools.count())
        long_enough = [h for h in self.histories if len(h.events) >= INLINE_EVENTS]
        self.inline = itertools.cycle([Question(inline(h), number) for number, h in enumerate(long_enough)])

    async def run(self, job: Job) -> Measured:
        """Do a job; TimeoutError when the server leaves it hanging."""
        measured, cpu_s = Measured(), time.process_time()
        async with asyncio.timeout(GRACE_S + (0 if isinstance(job, Tell) else job.seconds)):
            match job:
                case Tell():
                    await self.tell(job.num_users)
                case Closed():
                    await self.closed(job, measured)
                case Open():
                    await self.open(job, measured)
        measured.num_fresh, measured.cpu_s = len(self.fresh), time.process_time() - cpu_s
        return measured

    async def tell(self, num_users: int) -> None:
        """Send first events. RuntimeError when the server does not accept them."""
        waiting = list(itertools.islice(self.users, num_users))

        async def tell_some() -> None:
            connection = Connection(self.port)
            while waiting:
                replay = waiting.pop()
                accept(await connection.post(EVENTS, encode(replay.first_events())))
                self.fresh.append(replay)
            connection.close()

        await asyncio.gather(*(tell_some() for _ in range(TELLERS)))

    async def closed(self, job: Closed, measured: Measured) -> None:
        """Run the connections until the time is over or no fresh user is left."""
        now = time.perf_counter  # because uvloop's clock has a resolution of a millisecond
        started, stop = now() + WARM_S, now() + WARM_S + job.seconds

        async def ask(connection: Connection, question: Question) -> None:
            sent = now()
            reply = await connection.post(RECOMMEND, question.body)
            measured.num_asked += 1
            if sent >= started and now() <= stop:
                self._count(measured, question, reply, 1000 * (now() - sent), 1000 * (now() - sent))

        async def visit(connection: Connection) -> None:
            replay = self.fresh.popleft()
            await ask(connection, Question(encode(replay.question())))
            for _ in range(NUM_QUESTIONS - 1):
                accept(await connection.post(EVENTS, encode(replay.next_event())))
                await ask(connection, Question(encode(replay.question())))
                if now() > stop:
                    return

        async def ask_on() -> None:
            nonlocal stop
            connection = Connection(self.port)
            while now() < stop and self._has_more(job.work):
                await (visit(connection) if job.work == "visits" else ask(connection, self._next(job.work, {})))
            stop = min(stop, now())
            connection.close()

        await asyncio.gather(*(ask_on() for _ in range(job.connections)))
        measured.seconds = stop - started

    async def open(self, job: Open, measured: Measured) -> None:
        """Send each request when it is due, over any free connection, until the time is over or no fresh user is left."""
        now = time.perf_counter
        more = {} if job.timeout_ms is None else {"timeout_ms": job.timeout_ms}

        def next_send() -> Send | None:
            if not self._has_more(job.work):
                return None
            measured.num_asked += 1
            question = self._next(job.work, more)

            async def ask(connection: Connection, due: float) -> None:
                sent = now()
                measured.late_ms.append(1000 * (sent - due))
                reply = await connection.post(RECOMMEND, question.body)
                self._count(measured, question, reply, 1000 * (now() - due), 1000 * (now() - sent))

            return ask

        def not_sent() -> None:
            measured.num_asked += 1
            measured.num_failed += 1

        dues_s = poisson([(job.seconds, job.rate)], random.Random(0))
        measured.seconds = await open_loop(lambda: Connection(self.port), dues_s, next_send, not_sent)

    def _has_more(self, work: Work) -> bool:
        return work == "inline" or bool(self.fresh)

    def _next(self, work: Work, more: Json) -> Question:
        """The next request. `more` is added to the body of a stranger's request."""
        if work == "inline":
            return next(self.inline)
        if work == "regulars":
            self.fresh.rotate(-1)
            return Question(encode(self.fresh[-1].question() | more))
        stranger = self.fresh.popleft()
        return Question(encode(stranger.question() | more), stranger=stranger)

    def _count(self, measured: Measured, question: Question, reply: Reply, answered_ms: float, refused_ms: float) -> None:
        if reply.status in REFUSALS:
            measured.refused_ms.append(refused_ms)
            if question.stranger and reply.status == REFUSED:
                self.fresh.append(question.stranger)
            return
        answer = _answer.decode(reply.body) if reply.status == 200 else NO_ANSWER
        if len(answer.items) != NUM_RESULTS or answer.degraded:
            measured.num_failed += 1
            return
        measured.answered_ms.append(answered_ms)
        if question.number is not None:
            measured.num_mixed += not agree(self.seen.setdefault((question.number, answer.release), answer), answer)


def inline(history: History) -> bytes:
    """The body of a request with an inline history."""
    events = history.events[:INLINE_EVENTS]
    return encode({"events": events, "num_results": NUM_RESULTS, "timestamp": events[-1]["timestamp"] + MOMENT_MS})


def agree(first: Answer, second: Answer) -> bool:
    """Whether two answers are equal except for rounding, which may change the item at the last place."""
    near = all(abs(a.score - b.score) <= SCORE_TOLERANCE for a, b in zip(first.items, second.items, strict=True))
    return near and len({a.item_id for a in first.items} & {b.item_id for b in second.items}) >= len(first.items) - 1


def accept(reply: Reply) -> None:
    """RuntimeError unless the events were accepted."""
    if not 200 <= reply.status < 300:
        raise RuntimeError(f"{EVENTS} answered {reply.status}: {reply.body[:300].decode(errors='replace')}")


def encode(body: object) -> bytes:
    """The body as JSON."""
    return msgspec.json.encode(body)


def main() -> None:
    """Run the jobs from stdin until it ends."""
    port, histories = int(sys.argv[1]), read_histories(Path(sys.argv[2]))
    generator, jobs = Generator(port, histories), msgspec.json.Decoder(Job)
    gc.freeze()  # histories are large and stay in memory; collecting them again and again would add latency
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            measured = runner.run(generator.run(jobs.decode(line)))
            sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
