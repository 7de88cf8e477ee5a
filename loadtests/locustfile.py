"""Locust users who behave like people: a closed loop, in which each user waits for an answer before it goes on.

`loadtests.run` starts this. By hand, with Locust's page, against any server:
TWOTOWER_HISTORIES=histories.jsonl locust -f loadtests/locustfile.py --host http://127.0.0.1:8000
"""

import math
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from locust import FastHttpUser, LoadTestShape, events, task

from loadtests.outcomes import Outcomes, fate_of
from loadtests.people import People, Step
from loadtests.profiles import PROFILES, RAMP_S, Plan
from loadtests.traffic import read_histories

BY_HAND = msgspec.json.encode(Plan(profile=PROFILES["steady"], capacity_per_s=20.0)).decode()
PLAN = msgspec.json.decode(os.environ.get("TWOTOWER_LOAD", BY_HAND), type=Plan)
PEOPLE = People(
    read_histories(Path(os.environ["TWOTOWER_HISTORIES"])), PLAN.profile.habits, uuid.uuid4().hex[:8], random.Random(0)
)
HEADERS = {"X-API-Key": PLAN.key} if PLAN.key else {}
OUTCOMES = Outcomes(
    generator="locust", profile=PLAN.profile.name, capacity_per_s=PLAN.capacity_per_s, seconds=PLAN.profile.seconds
)
STARTED = time.perf_counter() + RAMP_S


class Person(FastHttpUser):  # type: ignore[misc]  # locust is not type-checked here, so its classes are Any
    """Takes the steps of one session after the other."""

    session: Iterator[Step] = iter(())

    @task  # type: ignore[untyped-decorator]
    def take_a_step(self) -> None:
        """Pause, send the next request, and note its fate."""
        step = next(self.session, None)
        if step is None:
            self.session = PEOPLE.session()
            return
        time.sleep(step.pause_s)
        sent = time.perf_counter()
        with self.client.post(step.path, json=step.body, headers=HEADERS, catch_response=True) as response:
            fate = fate_of(step.path, step.body, response.status_code, response.content or b"")
            if sent >= STARTED:
                OUTCOMES.add(sent - STARTED, 1000 * (time.perf_counter() - sent), step.path, fate)
            if fate:
                response.failure(f"{fate.name.lower()}: status {response.status_code}: {(response.text or '')[:200]}")


class Phases(LoadTestShape):  # type: ignore[misc]
    """As many users as make the load of each phase, when answers take no time. The first phase goes on when run by hand."""

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and how many may come in a second. None when all phases are over."""
        now, pause_s = self.get_run_time() - RAMP_S, PLAN.profile.habits.mean_pause_s
        for phase in PLAN.profile.phases:
            if now < phase.seconds or not PLAN.out:
                users = math.ceil(phase.load * PLAN.capacity_per_s * pause_s)
                return users, max(1.0, users / 2)
            now -= phase.seconds
        return None


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write(**_: Any) -> None:
    """Write the outcomes."""
    if PLAN.out:
        OUTCOMES.write(Path(PLAN.out))
