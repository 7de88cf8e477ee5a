"""A circuit breaker: stops calling a service that does not answer, so that requests do not each wait for its timeout."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_JITTER = 0.2  # share by which the pause is varied, so that several servers do not all try again at the same moment


class CircuitOpen(Exception):
    """The call was not made, because the last calls failed and it is too early to try again."""


class Breaker:
    """Opens after `threshold` failures in a row. After about `pause_s`, one call at a time tries again; a success closes it.

    Only errors of the types `failures` count as failures. Any other error counts as an answer. A cancelled call counts as
    neither.
    """

    def __init__(
        self,
        *failures: type[Exception],
        threshold: int = 5,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._types, self._threshold, self._pause_s, self._clock = failures, threshold, pause_s, clock
        self._failures, self._retry_at_s, self._probing = 0, 0.0, False

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, except for the one that tries again."""
        return self._failures >= self._threshold

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Surrounds one call; CircuitOpen when the call should not be made."""
        probe = self.is_open
        if probe and (self._probing or self._clock() < self._retry_at_s):
            raise CircuitOpen("the last calls failed")
        self._probing |= probe
        try:
            yield
        except self._types:
            self._failures += 1
            if probe or self._failures == self._threshold:
                # An ordinary random number is enough, because no secret depends on it.
                self._retry_at_s = self._clock() + self._pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            raise
        except Exception:
            self._failures = 0
            raise
        else:
            self._failures = 0
        finally:
            if probe:
                self._probing = False
