"""Load profiles: how much load, for how long, and how the users behave. All are frozen records."""

import difflib
from collections.abc import Collection

import msgspec

RAMP_S = 3.0  # of the first phase's load before a profile, in which caches fill; it is not judged


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How users behave. Shares are probabilities from 0 to 1."""

    mean_questions: float = 5.0  # recommendations that a user asks for in one session; their number is geometric
    repeat_share: float = 0.1  # of questions that are asked twice, as by a reload
    burst_share: float = 0.3  # of steps that follow the one before without a pause
    pause_s: float = 0.5  # mean pause before any other step; exponential. An open loop sends steps when they are due instead
    return_share: float = 0.5  # of sessions that are the next session of a user who was there before
    cold_share: float = 0.2  # of the other sessions: users without a history
    zipf_exponent: float = 1.0  # cold users look at the n-th most frequent item with a probability proportional to n ** -exponent

    @property
    def mean_pause_s(self) -> float:
        """Mean pause before a step, bursts included."""
        return self.pause_s * (1 - self.burst_share)

    @property
    def recommend_share(self) -> float:
        """Share of requests that ask for recommendations. The others tell of events, one after each question and some before."""
        asked = self.mean_questions * (1 + self.repeat_share)
        told = self.mean_questions + (1 - self.return_share) * (1 - self.cold_share)
        return asked / (asked + told)


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A time of constant load."""

    seconds: float
    load: float  # requests per second, as a share of the capacity


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One load test."""

    name: str
    phases: tuple[Phase, ...]
    habits: Habits = Habits()
    generators: tuple[str, ...] = ("poisson", "locust", "loadgen")  # loadgen takes a constant load only

    @property
    def seconds(self) -> float:
        """Length of all phases together."""
        return sum(phase.seconds for phase in self.phases)

    def lasting(self, seconds: float) -> "Profile":
        """The same profile stretched or shortened to so many seconds."""
        factor = seconds / self.seconds
        return msgspec.structs.replace(
            self, phases=tuple(msgspec.structs.replace(phase, seconds=factor * phase.seconds) for phase in self.phases)
        )


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What Locust is asked to do: one profile at a capacity."""

    profile: Profile
    capacity_per_s: float
    key: str = ""  # API key
    out: str = ""  # folder for the outcomes


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="smoke", phases=(Phase(seconds=10, load=0.3),)),
        Profile(name="steady", phases=(Phase(seconds=30, load=0.6),)),
        Profile(
            name="spike",
            phases=(Phase(seconds=10, load=0.4), Phase(seconds=5, load=1.5), Phase(seconds=15, load=0.4)),
            generators=("poisson", "locust"),
        ),
        Profile(name="soak", phases=(Phase(seconds=600, load=0.4),), generators=("poisson",)),
    )
}


def profile_named(name: str) -> Profile:
    """The profile of that name. ValueError with the nearest name when there is none."""
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}.{did_you_mean(name, PROFILES)}")
    return PROFILES[name]


def did_you_mean(name: str, names: Collection[str]) -> str:
    """A question with the nearest name, or the list of names when none is near."""
    nearest = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else f" There are: {', '.join(names)}."
