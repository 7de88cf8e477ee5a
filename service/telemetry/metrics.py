"""Every Prometheus metric, named once. Labels are bounded: no user, item, release or free text on a histogram."""

from time import perf_counter
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry.trail import TRAIL

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The metrics of one server, registered in the registry given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Histogram(
            "http_server_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("twotower_requests_in_flight", "Requests being answered", registry=registry)
        self.stages = Histogram(
            "twotower_stage_duration_seconds",
            "Time in one stage of a request; `engine` is the wait for the engine and its work",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge("twotower_queue_depth", "Requests waiting for the engine", registry=registry)
        self.queue_tokens = Gauge("twotower_queue_tokens", "Events the engine has yet to read, about", registry=registry)
        self.batch_size = Histogram(
            "twotower_batch_size", "Requests answered together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.batch_tokens = Histogram(
            "twotower_batch_tokens", "Events read for them, about", buckets=(1, 16, 64, 256, 1024, 4096), registry=registry
        )
        self.user_cache = Gauge(
            "twotower_user_cache",
            "What came of keeping what the model read of users, since the start",
            ["outcome"],
            registry=registry,
        )
        self.user_cache_bytes = Gauge("twotower_user_cache_bytes", "Kept of users of the release served", registry=registry)
        self.user_cache_error = Gauge(
            "twotower_user_cache_max_error", "Largest error of a score that was verified", registry=registry
        )
        self.heartbeat_age = Gauge("twotower_engine_heartbeat_age_seconds", "Since the engine last moved", registry=registry)
        self.log_dropped = Counter("twotower_log_lines_dropped", "Log lines lost since nobody read them", registry=registry)
        self.key_reloads = Counter("twotower_key_reloads", "Readings of a changed key file", ["result"], registry=registry)
        self.key_used = Gauge(
            "twotower_key_last_used_timestamp_seconds", "When an API key was last used", ["key"], registry=registry
        )
        self.rejected = Counter("twotower_admission_rejected", "Requests refused at the door", ["reason"], registry=registry)
        self.late = Counter("twotower_deadline_exceeded", "Requests that ran out of time", ["stage"], registry=registry)
        self.degraded = Counter("twotower_degraded", "Answers that lack something", ["reason"], registry=registry)
        self.unknown_items = Counter("twotower_unknown_items", "Item ids not in the catalogue", registry=registry)
        self.empty = Counter("twotower_empty_results", "Answers without a single item", registry=registry)
        self.events = Counter("twotower_events", "Events received", ["outcome"], registry=registry)
        self.item_changes = Counter(
            "twotower_item_changes", "Items of PUT and DELETE /v1/items", ["method", "outcome"], registry=registry
        )
        self.delta_items = Gauge("twotower_delta_items", "Items changed since the release was built", ["kind"], registry=registry)
        self.history_errors = Counter(
            "twotower_history_errors", "Failed calls of the history store", ["op", "reason"], registry=registry
        )
        self.history_rollbacks = Counter(
            "twotower_history_rollbacks", "Histories that did not go on from the one remembered", registry=registry
        )
        self.history_cache = Gauge("twotower_history_cache_bytes", "Histories remembered, an estimate", registry=registry)
        self.circuit = Gauge("twotower_circuit_state", "1 while a dependency is not asked", ["dep"], registry=registry)
        self.release = Gauge("twotower_release_info", "1 for the release served", ["release", "vector_space"], registry=registry)
        self.release_loaded = Gauge(
            "twotower_release_loaded_timestamp_seconds", "When the release served was loaded", registry=registry
        )
        self.release_built = Gauge(
            "twotower_release_built_timestamp_seconds", "When the release served was written to its store", registry=registry
        )
        self.swaps = Counter("twotower_release_swaps", "Moves of the pointer, by what came of it", ["result"], registry=registry)
        self.load_failures = Counter(
            "twotower_release_load_failures", "Releases that were not served, by why", ["reason"], registry=registry
        )
        self.variant_requests = Counter(
            "twotower_variant_requests", "Recommendations by the variant that answered", ["variant", "outcome"], registry=registry
        )
        self.compared = Counter(
            "twotower_compared", "Requests asked again of another release", ["kind", "outcome"], registry=registry
        )
        self.overlap = Histogram(
            "twotower_compared_overlap",
            "Share of the first ten items that the other release gives too",
            ["kind"],
            buckets=[n / 10 for n in range(11)],
            registry=registry,
        )
        self.compared_seconds = Histogram(
            "twotower_compared_duration_seconds",
            "Time of the other release's answer",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )

        self._timed: dict[str, Observer] = {}
        self._counted: dict[tuple[str, str, int], Observer] = {}

    def count_batch(self, num_requests: int, num_tokens: int) -> None:
        """What the engine answered together."""
        self.batch_size.observe(num_requests)
        self.batch_tokens.observe(num_tokens)

    def stage(self, name: str) -> "Stage":
        """Time one stage, whether it ends well or not."""
        if name not in self._timed:
            self._timed[name] = self.stages.labels(name)
        return Stage(name, self._timed[name])

    def count(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one request; looking up a child by its labels costs more than to observe it."""
        key = (method, route, status)
        if key not in self._counted:
            self._counted[key] = self.requests.labels(*key)
        self._counted[key].observe(duration_s)


class Observer(Protocol):
    """What takes one measurement."""

    def observe(self, amount: float) -> None:
        """Take it."""


class Stage:
    """The time in a `with` block, measured and noted on the request's trail."""

    __slots__ = ("_name", "_observer", "_started_s")

    def __init__(self, name: str, observer: Observer) -> None:
        self._name, self._observer = name, observer

    def __enter__(self) -> None:
        self._started_s = perf_counter()

    def __exit__(self, *_: object) -> None:
        ended_s = perf_counter()
        self._observer.observe(ended_s - self._started_s)
        if trail := TRAIL.get():
            trail.stages.append((self._name, self._started_s, ended_s))
