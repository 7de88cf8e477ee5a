"""Sends the steps of people: when they are due (open loop), or one after the other over a few connections (closed loop)."""

import asyncio
import gc
import random
import time
import urllib.parse
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

import msgspec
import uvloop

from loadtests.connection import LOST, Connection, Reply
from loadtests.open_loop import Send, open_loop, poisson
from loadtests.outcomes import Fate, Outcomes, fate_of
from loadtests.people import People, Step
from loadtests.profiles import RAMP_S, Habits, Phase, Profile
from loadtests.traffic import History

PROBE_S, WARM_S = 3.0, 1.0
MOST_WAITING = 50  # sessions under way in an open loop, beside those that wait for an answer
STEPS_PER_SESSION = 10  # about; how quickly the number of sessions grows at the start
GRACE_S = 60.0  # a load test fails when it takes so much longer than planned
LIMIT_MS = 50.0  # the capacity is the highest rate at which the p99 of recommendations is within this limit
FIRST_RATE, LEAST_RATE, MOST_RATE = 32.0, 1.0, 8192.0  # requests per second that the search for the capacity begins and ends at
CLOSE_ENOUGH = 1.2  # the search ends when the lowest rate that is too high is at most so many times the highest that is not
SEED = 0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Target:
    """The server that gets the load."""

    host: str
    port: int
    key: str = ""  # API key

    @classmethod
    def at(cls, url: str, key: str = "") -> Self:
        """The server at an address such as http://127.0.0.1:8000. ValueError for any other."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"{url} is not an address such as http://127.0.0.1:8000")
        return cls(parts.hostname, parts.port or 80, key)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def connect(self) -> Connection:
        """A connection to it, not yet opened."""
        return Connection(self.port, self.host, self.key)


@dataclass(slots=True)
class Crowd:
    """People in front of one server."""

    target: Target
    people: People
    waiting: list[Iterator[Step]] = field(default_factory=list, init=False)  # sessions whose last request was answered

    @classmethod
    def of(cls, target: Target, histories: Sequence[History], habits: Habits) -> Self:
        """People whom the server has never met."""
        return cls(target, People(histories, habits, uuid.uuid4().hex[:8], random.Random(SEED)))

    async def open(
        self, profile: Profile, capacity_per_s: float, stop: asyncio.Event | None = None, ramp_s: float = RAMP_S
    ) -> Outcomes:
        """Send the steps of people as a Poisson process at the rates of the profile, to its end or until `stop` is set.

        A session waits for its own answers only. The first `ramp_s` seconds come before the profile and do not count.
        """
        phases = [(phase.seconds, phase.load * capacity_per_s) for phase in profile.phases]
        phases = [(ramp_s, phases[0][1]), *phases]
        outcomes = Outcomes(generator="poisson", profile=profile.name, capacity_per_s=capacity_per_s, seconds=profile.seconds)
        started = time.perf_counter() + ramp_s

        def next_send() -> Send | None:
            if stop and stop.is_set():
                return None
            session, step = self._next()

            async def send(connection: Connection, due: float) -> None:
                fate = await ask(connection, step)
                if due >= started:
                    outcomes.add(due - started, 1000 * (time.perf_counter() - due), step.path, fate)
                self.waiting.append(session)

            return send

        def not_sent() -> None:
            if (at_s := time.perf_counter() - started) >= 0:
                outcomes.add(at_s, 0.0, "", Fate.FAILED)

        await open_loop(self.target.connect, poisson(phases, self.people.rng), next_send, not_sent)
        return outcomes

    async def closed(self, connections: int, seconds: float) -> Outcomes:
        """Take the steps of people without pauses, each connection one after the other. The first second does not count."""
        now = time.perf_counter
        outcomes = Outcomes(generator="poisson", profile="capacity", seconds=seconds)
        started = now() + WARM_S

        async def go_on() -> None:
            connection, session = self.target.connect(), self.people.session()
            while now() < started + seconds:
                step = next(session, None)
                if step is None:
                    session = self.people.session()
                    continue
                sent = now()
                fate = await ask(connection, step)
                if sent >= started:
                    outcomes.add(sent - started, 1000 * (now() - sent), step.path, fate)
            connection.close()

        await asyncio.gather(*(go_on() for _ in range(connections)))
        return outcomes

    def keeps_up(self, rate: float) -> bool:
        """Whether the server answers every request of a short open loop, and 99 % of the recommendations within LIMIT_MS."""
        profile = Profile(name="capacity", phases=(Phase(seconds=PROBE_S, load=1.0),))
        figures = run(lambda: self.open(profile, rate, ramp_s=WARM_S), WARM_S + PROBE_S).figures()
        return figures["error_share"] == 0 and figures["p99_ms"] <= LIMIT_MS

    def _next(self) -> tuple[Iterator[Step], Step]:
        """The next step of a session under way, or the first of a new one."""
        rng = self.people.rng
        while True:
            begins = len(self.waiting) < MOST_WAITING and rng.random() < 2 / STEPS_PER_SESSION
            if begins or not self.waiting:
                session = self.people.session()
            else:
                place = rng.randrange(len(self.waiting))
                self.waiting[place], session = self.waiting[-1], self.waiting[place]
                self.waiting.pop()
            if (step := next(session, None)) is not None:
                return session, step


def capacity(keeps_up: Callable[[float], bool]) -> float:
    """The highest rate at which the server keeps up, in requests per second: found by doubling, then by bisection.

    Rates are those of an open loop. A closed loop goes faster, because its users never come all at once. The rate that ends the
    doubling is tried twice: a pause of the machine there would halve what is found. ValueError when the server does not even
    keep up with one request per second.
    """
    keeps, breaks = 0.0, FIRST_RATE
    while breaks < MOST_RATE and (keeps_up(breaks) or keeps_up(breaks)):
        keeps, breaks = breaks, 2 * breaks
    while not keeps and breaks > LEAST_RATE:
        keeps, breaks = (breaks / 2, breaks) if keeps_up(breaks / 2) else (0.0, breaks / 2)
    if not keeps:
        raise ValueError(f"the server does not keep up with {LEAST_RATE:g} request per second: no capacity can be measured")
    while breaks > CLOSE_ENOUGH * keeps:
        rate = (keeps * breaks) ** 0.5
        keeps, breaks = (rate, breaks) if keeps_up(rate) else (keeps, rate)
    return keeps


async def ask(connection: Connection, step: Step) -> Fate:
    """Send one step and wait for its fate. A server that hangs up or is not there is a failure."""
    try:
        reply = await connection.post(step.path, msgspec.json.encode(step.body))
    except OSError:
        reply = Reply(LOST, b"")
    return fate_of(step.path, step.body, reply.status, reply.body)


def run(work: Callable[[], Coroutine[None, None, Result]], seconds: float) -> Result:
    """Run an asynchronous load of so many seconds to its end. TimeoutError when the server leaves it hanging."""

    async def bounded() -> Result:
        async with asyncio.timeout(seconds + GRACE_S):
            return await work()

    gc.collect()
    gc.freeze()  # histories stay in memory; to collect them again and again would add latency
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())
