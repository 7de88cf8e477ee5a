"""All Prometheus metrics. Histogram labels have few values: never a user, an item, a release or free text."""

from time import perf_counter
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from service.telemetry.request_record import RECORD

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The metrics of one server, registered in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self.requests = Histogram(
            "http_server_request_duration_seconds",
            "Time from the arrival of a request's head to the end of its answer",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("twotower_requests_in_flight", "Requests being answered", registry=registry)
        self.stages = Histogram(
            "twotower_stage_duration_seconds",
            "Time in one stage of a request; the stage `engine` includes the wait in its queue",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge("twotower_queue_depth", "Requests waiting for the engine", registry=registry)
        self.queue_tokens = Gauge("twotower_queue_tokens", "About the events waiting to be read", registry=registry)
        self.batch_size = Histogram(
            "twotower_batch_size", "Requests in one batch of the engine", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.batch_tokens = Histogram(
            "twotower_batch_tokens", "About the events in one batch", buckets=(1, 16, 64, 256, 1024, 4096), registry=registry
        )
        self.user_cache = Gauge(
            "twotower_user_cache",
            "Uses of the cache of user states since the start, by outcome",
            ["outcome"],
            registry=registry,
        )
        self.user_cache_bytes = Gauge("twotower_user_cache_bytes", "Bytes of the cached user states", registry=registry)
        self.user_cache_error = Gauge(
            "twotower_user_cache_max_error",
            "Largest difference between cached and recomputed results that was within the tolerance",
            registry=registry,
        )
        self.heartbeat_age = Gauge(
            "twotower_engine_heartbeat_age_seconds", "Seconds since the engine last moved", registry=registry
        )
        self.loop_lag = Histogram(
            "twotower_event_loop_lag_seconds",
            "By how much the event loop woke too late, measured ten times a second",
            buckets=_SECONDS,
            registry=registry,
        )
        self.memory_available = Gauge(
            "twotower_memory_available_bytes",
            "Memory that this process may still take: of the machine and of its control groups, the least",
            registry=registry,
        )
        self.log_dropped = Counter(
            "twotower_log_lines_dropped", "Log lines lost because they could not be written in time", registry=registry
        )
        self.key_reloads = Counter(
            "twotower_key_reloads", "Reloads of the key file after a change, by result", ["result"], registry=registry
        )
        self.key_used = Gauge(
            "twotower_key_last_used_timestamp_seconds", "When an API key was last used", ["key"], registry=registry
        )
        self.rejected = Counter(
            "twotower_admission_rejected", "Requests refused before any work was done for them", ["reason"], registry=registry
        )
        self.late = Counter("twotower_deadline_exceeded", "Requests that missed their deadline", ["stage"], registry=registry)
        self.degraded = Counter(
            "twotower_degraded", "Answers that lack something, by what they lack", ["reason"], registry=registry
        )
        self.unknown_items = Counter(
            "twotower_unknown_items", "Item ids in requests or histories that the catalogue does not know", registry=registry
        )
        self.empty = Counter("twotower_empty_results", "Answers without items", registry=registry)
        self.events = Counter("twotower_events", "Events received", ["outcome"], registry=registry)
        self.item_changes = Counter(
            "twotower_item_changes", "Items received by PUT and DELETE /v1/items", ["method", "outcome"], registry=registry
        )
        self.delta_items = Gauge("twotower_delta_items", "Items changed since the release was built", ["kind"], registry=registry)
        self.history_errors = Counter(
            "twotower_history_errors", "Failed calls of the history store", ["op", "reason"], registry=registry
        )
        self.history_rollbacks = Counter(
            "twotower_history_rollbacks", "Stored histories that do not continue the cached one", registry=registry
        )
        self.history_cache = Gauge(
            "twotower_history_cache_bytes", "Bytes of the cached histories, an estimate", registry=registry
        )
        self.circuit = Gauge(
            "twotower_circuit_state", "1 while a dependency is not called, after failed calls", ["dep"], registry=registry
        )
        self.release = Gauge("twotower_release_info", "1 for the release served", ["release", "vector_space"], registry=registry)
        self.release_loaded = Gauge(
            "twotower_release_loaded_timestamp_seconds", "When the release served was loaded", registry=registry
        )
        self.release_built = Gauge(
            "twotower_release_built_timestamp_seconds", "When the release served was written to its store", registry=registry
        )
        self.swaps = Counter(
            "twotower_release_swaps", "Attempts to follow the pointer to a new release", ["result"], registry=registry
        )
        for result in ("swapped", "trial", "refused", "unavailable", "promoted", "passed", "rolled_back"):
            self.swaps.labels(result)  # from 0 on: Prometheus sees a rise only of what it has seen before
        self.load_failures = Counter(
            "twotower_release_load_failures", "Failed attempts to load a release, by reason", ["reason"], registry=registry
        )
        self.variant_requests = Counter(
            "twotower_variant_requests",
            "Requests to the model, by variant",
            ["variant", "outcome"],
            registry=registry,
        )
        self.follow_ups = Counter(
            "twotower_follow_ups",
            "Answers after which the user turned to an item, by whether it was among the first ten shown",
            ["variant", "outcome"],
            registry=registry,
        )
        self.compared = Counter(
            "twotower_compared",
            "Answered requests that were given to another release too, to compare the answers",
            ["kind", "outcome"],
            registry=registry,
        )
        self.overlap = Histogram(
            "twotower_compared_overlap",
            "Share of the first ten items that the answers of both releases have in common",
            ["kind"],
            buckets=[n / 10 for n in range(11)],
            registry=registry,
        )
        self.compared_seconds = Histogram(
            "twotower_compared_duration_seconds",
            "Time that the other release took for its answer",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )

        self._timed: dict[str, Observer] = {}
        self._counted: dict[tuple[str, str, int], Observer] = {}
        self._followed: dict[str, tuple[Counter, Counter]] = {}

    def count_batch(self, num_requests: int, num_tokens: int) -> None:
        """Count one batch of the engine, and about how many events it read for it."""
        self.batch_size.observe(num_requests)
        self.batch_tokens.observe(num_tokens)

    def count_follow_up(self, variant: str, is_hit: bool) -> None:
        """Count what a user turned to after an answer of a variant. Both outcomes begin at 0, so that a share can be told."""
        if variant not in self._followed:
            self._followed[variant] = (self.follow_ups.labels(variant, "miss"), self.follow_ups.labels(variant, "hit"))
        self._followed[variant][is_hit].inc()

    def stage(self, name: str) -> "Stage":
        """A context manager that times one stage of a request, also when the stage fails."""
        if name not in self._timed:
            self._timed[name] = self.stages.labels(name)
        return Stage(name, self._timed[name])

    def count(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one request. Children of the histogram are cached: looking one up by its labels costs more than observing."""
        key = (method, route, status)
        if key not in self._counted:
            self._counted[key] = self.requests.labels(*key)
        self._counted[key].observe(duration_s)


class Observer(Protocol):
    """The part of a Prometheus histogram that a stage needs."""

    def observe(self, amount: float) -> None:
        """Add one measurement."""


class Stage:
    """Measures the time spent in a `with` block, and notes it on the request's record."""

    __slots__ = ("_name", "_observer", "_started_s")

    def __init__(self, name: str, observer: Observer) -> None:
        self._name, self._observer = name, observer

    def __enter__(self) -> None:
        self._started_s = perf_counter()

    def __exit__(self, *_: object) -> None:
        ended_s = perf_counter()
        self._observer.observe(ended_s - self._started_s)
        if record := RECORD.get():
            record.stages.append((self._name, self._started_s, ended_s))
