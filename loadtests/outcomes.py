"""What became of each request of a load test, in one form for all generators. Kept as JSON, read by the gate."""

from enum import IntEnum
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from loadtests.traffic import EVENTS, NUM_RESULTS, RECOMMEND, Json

REFUSALS = (429, 503, 504)
GOOD_WITHIN_MS = 100.0  # a recommendation that comes later is of no use to the page that asked for it
END_FROM = 2 / 3  # the end of a test is its last third: after a spike the server must be as before
Generator = Literal["poisson", "locust", "loadgen"]
GENERATORS: tuple[Generator, ...] = get_args(Generator)
SUFFIX = ".outcomes.json"

Floats = npt.NDArray[np.float64]


class Fate(IntEnum):
    """What became of a request."""

    GOOD = 0
    DEGRADED = 1  # answered without something that the answer should know
    REFUSED = 2  # 429, 503 or 504
    FAILED = 3  # any other status, no answer, or an answer that is too short


class Answer(msgspec.Struct):
    """The fields of an answer to either kind of request that decide its fate."""

    items: list[msgspec.Raw] = []
    degraded: list[str] = []
    accepted: int = 0


class Outcomes(msgspec.Struct, kw_only=True):
    """The requests of one generator in one load test. The lists have one entry for each request."""

    generator: Generator
    profile: str
    capacity_per_s: float | None = None  # requests per second that the load is a share of
    seconds: float = 0.0  # time in which requests were due
    at_s: list[float] = []  # when it was due (poisson) or sent (the others), from the start
    latency_ms: list[float] = []  # from then to its answer
    is_recommend: list[bool] = []
    fates: list[Fate] = []
    own: dict[str, float] = {}  # figures that the generator computed by itself, by the names of the gate's figures

    def add(self, at_s: float, latency_ms: float, path: str, fate: Fate) -> None:
        """Note one request."""
        self.at_s.append(at_s)
        self.latency_ms.append(latency_ms)
        self.is_recommend.append(path == RECOMMEND)
        self.fates.append(fate)

    def count(self, fate: Fate) -> int:
        """The number of requests with that fate."""
        return self.fates.count(fate)

    def answered_ms(self) -> Floats:
        """Latencies of the recommendations that were answered."""
        rows = zip(self.latency_ms, self.is_recommend, self.fates, strict=True)
        return np.asarray([ms for ms, recommend, fate in rows if recommend and fate <= Fate.DEGRADED], dtype=np.float64)

    def figures(self) -> dict[str, float]:
        """The figures that limits may be set for. ValueError when no recommendation was answered.

        The time to refuse is not among them when nothing was refused.
        """
        answered_ms = self.answered_ms()
        if not len(answered_ms):
            counts = ", ".join(f"{self.count(fate)} {fate.name.lower()}" for fate in Fate)
            raise ValueError(f"{self.generator} got no recommendation ({counts}): there is nothing to judge")
        refused_ms = [ms for ms, fate in zip(self.latency_ms, self.fates, strict=True) if fate == Fate.REFUSED]
        good = np.asarray(self.fates) == Fate.GOOD
        good &= np.asarray(self.latency_ms) <= GOOD_WITHIN_MS
        at_the_end = np.asarray(self.at_s) >= max(self.at_s) * END_FROM
        return {
            "p50_ms": quantile(answered_ms, 0.50),
            "p99_ms": quantile(answered_ms, 0.99),
            "p999_ms": quantile(answered_ms, 0.999),
            "error_share": (self.count(Fate.REFUSED) + self.count(Fate.FAILED)) / len(self.fates),
            "degraded_share": self.count(Fate.DEGRADED) / len(answered_ms),
            **({"refusal_p50_ms": quantile(np.asarray(refused_ms), 0.50)} if refused_ms else {}),
            "goodput_share": float(good.mean()),
            "end_goodput_share": float(good[at_the_end].mean()),
        } | self.own

    def write(self, directory: Path) -> Path:
        """Write the outcomes to a file named for profile and generator."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.profile}-{self.generator}{SUFFIX}"
        path.write_bytes(msgspec.json.encode(self))
        return path


def quantile(values: Floats, share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def fate_of(path: str, body: Json, status: int, content: bytes) -> Fate:
    """The fate of a request, by the status and content of its answer."""
    if status in REFUSALS:
        return Fate.REFUSED
    if not 200 <= status < 300:
        return Fate.FAILED
    try:
        answer = msgspec.json.decode(content, type=Answer)
    except msgspec.DecodeError:
        return Fate.FAILED
    is_whole = answer.accepted == len(body["events"]) if path == EVENTS else len(answer.items) == NUM_RESULTS
    if not is_whole:
        return Fate.FAILED
    return Fate.DEGRADED if answer.degraded else Fate.GOOD


def read_outcomes(directory: Path, profile: str) -> list[Outcomes]:
    """All outcomes of a profile. ValueError when there is none, or a file is damaged."""
    found = []
    for path in sorted(directory.glob(f"{profile}-*{SUFFIX}")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Outcomes))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path} is not the outcome of a load test: {error}") from None
    if not found:
        raise ValueError(f"{directory} holds no outcome of the profile {profile!r}: run `make loadtest ARGS={profile}` first")
    return sorted(found, key=lambda one: GENERATORS.index(one.generator))
