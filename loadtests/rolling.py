"""A rolling restart: two servers behind a balancer are replaced in turn, while people ask through it."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from loadtests.balancer import LOOK_S, Balancer
from loadtests.connection import HOST
from loadtests.crowd import Crowd, Target, run
from loadtests.outcomes import Fate, Outcomes
from loadtests.profiles import Habits, Phase, Profile
from loadtests.run import serving
from loadtests.server_process import Server
from loadtests.traffic import History

DRAIN_S = 1.0  # longer than the balancer takes to see that a server is not ready
MOST_S = 300.0  # the load lasts until the restart is over, but no longer
STOP_TIMEOUT_S = 30.0
NUM_SERVERS = 2


class Rolled(NamedTuple):
    """What became of the requests during a rolling restart."""

    num_asked: int
    num_refused: int  # 503 and the like
    num_failed: int

    @property
    def num_failures(self) -> int:
        """Requests without a good answer."""
        return self.num_refused + self.num_failed


def roll(store: Path, histories: Sequence[History], directory: Path, rate: float) -> Rolled:
    """Replace two servers by two others, one after the other, at `rate` requests per second. They share their histories."""
    outcomes = run(lambda: _roll(store, histories, directory, rate), MOST_S)
    return Rolled(len(outcomes.fates), outcomes.count(Fate.REFUSED), outcomes.count(Fate.FAILED))


async def _roll(store: Path, histories: Sequence[History], directory: Path, rate: float) -> Outcomes:
    profile = Profile(name="rolling", phases=(Phase(seconds=MOST_S, load=1.0),))
    with ExitStack() as stack:

        def start(number: int) -> Server:
            settings = {"TWOTOWER_DRAIN_S": str(DRAIN_S)}
            return stack.enter_context(serving(store, directory, settings, log=f"service-{number}.log"))

        old = [await asyncio.to_thread(start, number) for number in range(NUM_SERVERS)]
        balancer, stop = Balancer([server.port for server in old]), asyncio.Event()
        async with balancer.listening() as port:
            crowd = Crowd.of(Target(HOST, port), histories, Habits())
            load = asyncio.create_task(crowd.open(profile, rate, stop))
            for number, server in enumerate(old):
                new = await asyncio.to_thread(start, NUM_SERVERS + number)
                balancer.ports.append(new.port)
                while new.port not in balancer.ready:
                    await asyncio.sleep(LOOK_S)
                server.process.send_signal(signal.SIGTERM)
                status = await asyncio.to_thread(server.process.wait, STOP_TIMEOUT_S)
                assert status == 0, f"a server that was asked to stop ended with {status}"
            await asyncio.sleep(DRAIN_S)
            stop.set()
            return await load
