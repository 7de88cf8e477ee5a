"""When a call is sent again, and how long to wait before."""

import random
from dataclasses import dataclass
from typing import Literal

from twotower_client.errors import ApiError, NoAnswer, TwotowerError

# `always`: two requests do what one does. `if_undone`: only where the server certainly did not do it. `never`: not at all.
Repeat = Literal["always", "if_undone", "never"]

_UNDONE = frozenset({429, 503})  # the server refuses before it does anything
_PASSING = _UNDONE | {502, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a call is sent, and until when."""

    attempts: int = 4  # the first one included; 1 turns retries off
    first_wait_s: float = 0.2  # at most this before the second attempt, twice as much before the third, and so on
    longest_wait_s: float = 10.0
    total_s: float = 30.0  # no attempt begins later than this after the first

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_wait_s, self.longest_wait_s, self.total_s) < 0:
            raise ValueError("retries need at least one attempt, and no negative time")

    def wait_s(self, error: TwotowerError, repeat: Repeat, attempt: int, elapsed_s: float) -> float | None:
        """Seconds to wait before the next attempt; None if there shall be none.

        The wait is drawn between 0 and a limit that doubles, so that clients that were refused together do not return together
        (full jitter). What the server asks for with Retry-After comes on top.
        """
        if attempt >= self.attempts or not may_repeat(error, repeat):
            return None
        wait_s = random.uniform(0.0, min(self.longest_wait_s, self.first_wait_s * 2 ** (attempt - 1)))  # noqa: S311 # no secret
        if isinstance(error, ApiError) and error.retry_after_s is not None:
            wait_s += error.retry_after_s
        return wait_s if elapsed_s + wait_s <= self.total_s else None


def may_repeat(error: TwotowerError, repeat: Repeat) -> bool:
    """Whether a call that failed so can succeed later, and does no harm then."""
    if repeat == "never":
        return False
    match error:
        case NoAnswer():
            return repeat == "always" or not error.was_sent
        case ApiError():
            return error.status in (_PASSING if repeat == "always" else _UNDONE)
        case _:
            return False
