"""Users who behave like people: they come in sessions, look at items, ask again, come back, and some are new.

A session is a list of steps. Locust's users take the steps with pauses, the open loop when they are due.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loadtests.profiles import Habits
from loadtests.traffic import EVENTS, RECOMMEND, History, Json, Replay

COLD_EVENTS = 40  # events that a cold user has in store
SECOND_MS = 1000
MOST_LEFT = 200  # the users who left last may come back; those before have lost interest


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a user."""

    path: str
    body: Json
    pause_s: float  # before the step


@dataclass(slots=True)
class People:
    """The users of one load test. `run` makes their ids differ from those of other load tests."""

    histories: Sequence[History]
    habits: Habits
    run: str
    rng: random.Random
    left: list[Replay] = field(default_factory=list, init=False)  # users whose session is over, and who may come back
    numbers: Iterator[int] = field(default_factory=itertools.count, init=False)
    items: list[str] = field(init=False)  # the most frequent first
    weights: list[float] = field(init=False)

    def __post_init__(self) -> None:
        counts = Counter(event["item_id"] for history in self.histories for event in history.events)
        self.items = [item for item, _ in counts.most_common()]
        shares = (rank**-self.habits.zipf_exponent for rank in range(1, len(self.items) + 1))
        self.weights = list(itertools.accumulate(shares))

    def session(self) -> Iterator[Step]:
        """The steps of one session. The user may come back in a later session when all steps were taken."""
        habits, rng = self.habits, self.rng
        if self.left and rng.random() < habits.return_share:
            replay = self.left.pop(rng.randrange(len(self.left)))
        elif rng.random() < habits.cold_share:
            replay = Replay.start(self._cold_history(), f"{self.run}-{next(self.numbers)}")
        else:
            replay = Replay.start(rng.choice(self.histories), f"{self.run}-{next(self.numbers)}")
            yield Step(EVENTS, replay.first_events(), 0.0)
        while True:
            question = replay.question()
            yield Step(RECOMMEND, question, self._pause())
            if rng.random() < habits.repeat_share:
                yield Step(RECOMMEND, question, self._pause())
            if replay.finished:
                return
            yield Step(EVENTS, replay.next_event(), self._pause())
            if rng.random() < 1 / habits.mean_questions:
                break
        self.left.append(replay)
        del self.left[:-MOST_LEFT]

    def _pause(self) -> float:
        return 0.0 if self.rng.random() < self.habits.burst_share else self.rng.expovariate(1 / self.habits.pause_s)

    def _cold_history(self) -> History:
        """Events of a user of whom nothing is known: a second apart, on items drawn by Zipf's law."""
        like = self.rng.choice(self.histories).events[0]
        items = self.rng.choices(self.items, cum_weights=self.weights, k=COLD_EVENTS)
        events = (
            {"item_id": item, "event_type": like["event_type"], "timestamp": like["timestamp"] + n * SECOND_MS, "properties": {}}
            for n, item in enumerate(items)
        )
        return History("new", tuple(events))
