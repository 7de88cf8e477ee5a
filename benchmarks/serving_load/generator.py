"""The process that makes the load: jobs come as JSON lines on stdin, what was measured goes back as JSON lines on stdout.

`python -m benchmarks.serving_load.generator PORT HISTORIES`, which `benchmarks.serving_load.capacity` starts. Histories are
real (see loadtests.traffic); each is replayed under as many made-up user ids as there are users asked for. A user is fresh
until it has had an answer, so that what a server remembers of it is what it remembers of anybody who comes back.
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

from benchmarks.serving_load.connection import Connection, Reply
from loadtests.traffic import MOMENT_MS, NUM_RESULTS, History, Json, Replay, read_histories

RECOMMEND, EVENTS = "/v1/recommend", "/v1/events"
NUM_QUESTIONS = 5
INLINE_EVENTS = 50
WARM_S = 1.0  # of a closed loop, before anything counts
GRACE_S = 60.0  # how much longer than asked for a job may take
TELLERS = 8  # connections that tell first events
MOST_CONNECTIONS = 1024  # of an open loop: what finds none free counts as failed
SCORE_TOLERANCE = 1e-3  # two answers of one release: other batches round differently
REFUSED, REFUSALS = 503, (429, 503, 504)


# visits: a fresh user asks NUM_QUESTIONS times, with one new event between two questions. strangers: every question is a fresh
# user's only one. inline: a question brings its own history, of INLINE_EVENTS events, and names no user.
Work = Literal["visits", "strangers", "inline"]


class Tell(msgspec.Struct, frozen=True, kw_only=True, tag="tell"):
    """Give the server the first events of this many more users."""

    num_users: int


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """Each connection asks again as soon as it has its answer."""

    work: Work
    connections: int
    seconds: float


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Questions come as a Poisson process, answered or not. A refused stranger stays fresh and asks again later."""

    work: Work  # not visits: what comes next in one waits for an answer
    rate: float  # per second
    seconds: float
    timeout_ms: int | None = None  # told to the server


Job = Tell | Closed | Open


class Measured(msgspec.Struct, kw_only=True):
    """What a job saw. Times are of questions, in milliseconds; an open loop counts an answer's from when it was due."""

    seconds: float = 0.0  # in which the answers below came; of an open loop, in which they were asked for
    answered_ms: list[float] = []
    refused_ms: list[float] = []  # status 429, 503 or 504; from when the request was sent
    late_ms: list[float] = []  # of an open loop: how long after it was due a request was sent
    num_failed: int = 0  # every other status, lost connections, and answers that are short or degraded
    num_mixed: int = 0  # answers that differ from an earlier one of the same release to the same question
    num_asked: int = 0  # questions, those before and after the counted time too
    num_fresh: int = 0  # users left who never had an answer
    cpu_s: float = 0.0  # that the generator took


class Item(msgspec.Struct):
    """One item of an answer."""

    item_id: str
    score: float


class Answer(msgspec.Struct):
    """What is read of an answer."""

    items: list[Item]
    release: str = ""
    degraded: list[str] = []


NO_ANSWER = Answer([])
_answer = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what its answer changes."""

    body: bytes
    number: int | None = None  # of an inline history: every release has one answer to it
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
        """Tell first events; RuntimeError when the server does not take them."""
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
        """Run the connections until the time is up, or until there is no fresh user any more."""
        now = time.perf_counter  # uvloop's own clock counts whole milliseconds
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
        """Send each question when it is due, over whichever connection is free, until the time or the fresh users are over."""
        now, rng, idle, num_waiting = time.perf_counter, random.Random(0), list[Connection](), 0
        more = {} if job.timeout_ms is None else {"timeout_ms": job.timeout_ms}

        async def ask(question: Question, due: float) -> None:
            nonlocal num_waiting
            num_waiting += 1
            connection, sent = idle.pop() if idle else Connection(self.port), now()
            measured.late_ms.append(1000 * (sent - due))
            reply = await connection.post(RECOMMEND, question.body)
            self._count(measured, question, reply, 1000 * (now() - due), 1000 * (now() - sent))
            idle.append(connection)
            num_waiting -= 1

        due = started = now()
        async with asyncio.TaskGroup() as tasks:
            while (due := due + rng.expovariate(job.rate)) < started + job.seconds and self._has_more(job.work):
                await asyncio.sleep(max(due - now(), 0))
                measured.num_asked += 1
                if num_waiting < MOST_CONNECTIONS:
                    tasks.create_task(ask(self._next(job.work, more), due))
                else:
                    measured.num_failed += 1
            measured.seconds = now() - started
        for connection in idle:
            connection.close()

    def _has_more(self, work: Work) -> bool:
        return work == "inline" or bool(self.fresh)

    def _next(self, work: Work, more: Json) -> Question:
        """The next question; `more` goes into a stranger's body."""
        if work == "inline":
            return next(self.inline)
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
    """A question that brings its own history."""
    events = history.events[:INLINE_EVENTS]
    return encode({"events": events, "num_results": NUM_RESULTS, "timestamp": events[-1]["timestamp"] + MOMENT_MS})


def agree(first: Answer, second: Answer) -> bool:
    """Whether two answers are the same but for rounding, which may bring another item to the last place."""
    near = all(abs(a.score - b.score) <= SCORE_TOLERANCE for a, b in zip(first.items, second.items, strict=True))
    return near and len({a.item_id for a in first.items} & {b.item_id for b in second.items}) >= len(first.items) - 1


def accept(reply: Reply) -> None:
    """RuntimeError unless events were stored."""
    if not 200 <= reply.status < 300:
        raise RuntimeError(f"{EVENTS} answered {reply.status}: {reply.body[:300].decode(errors='replace')}")


def encode(body: object) -> bytes:
    """JSON."""
    return msgspec.json.encode(body)


def main() -> None:
    """Work off the jobs of stdin until it ends."""
    port, histories = int(sys.argv[1]), read_histories(Path(sys.argv[2]))
    generator, jobs = Generator(port, histories), msgspec.json.Decoder(Job)
    gc.freeze()  # histories are large and stay: going through them again and again would show as latency
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            measured = runner.run(generator.run(jobs.decode(line)))
            sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
