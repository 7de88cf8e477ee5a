"""What is sent again, and when."""

import pytest

from twotower_client import ApiError, NoAnswer, NotUnderstood, Retries, TwotowerError
from twotower_client.answers import ErrorDetail
from twotower_client.retries import Repeat, may_repeat


def status(number: int, retry_after_s: float | None = None) -> ApiError:
    return ApiError(number, ErrorDetail(code="c", message="m", request_id="r"), retry_after_s)


@pytest.mark.parametrize(
    ("error", "always", "if_undone"),
    [
        (NoAnswer("m", "r", was_sent=False), True, True),
        (NoAnswer("m", "r", was_sent=True), True, False),
        (status(429), True, True),
        (status(503), True, True),
        (status(502), True, False),
        (status(504), True, False),
        (status(500), False, False),
        (status(507), False, False),
        (status(422), False, False),
        (status(401), False, False),
        (NotUnderstood("m", "r"), False, False),
    ],
    ids=lambda value: getattr(value, "status", type(value).__name__),
)
def test_a_call_is_sent_again_only_where_that_can_help_and_does_no_harm(
    error: TwotowerError, always: bool, if_undone: bool
) -> None:
    answers: dict[Repeat, bool] = {"always": always, "if_undone": if_undone, "never": False}
    assert {repeat: may_repeat(error, repeat) for repeat in answers} == answers


def test_the_limit_of_the_wait_doubles_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    retries = Retries(attempts=9, first_wait_s=1.0, longest_wait_s=5.0, total_s=100.0)
    assert [retries.wait_s(status(503), "always", attempt, 0.0) for attempt in range(1, 6)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_waits_differ_so_that_clients_do_not_return_together() -> None:
    waits = {Retries().wait_s(status(503, 2.0), "always", 1, 0.0) for _ in range(50)}
    assert len(waits) == 50
    assert all(wait is not None and 2.0 <= wait <= 2.2 for wait in waits)


def test_no_attempt_begins_after_the_time_of_all() -> None:
    retries = Retries(attempts=100, first_wait_s=0.0, total_s=10.0)
    assert retries.wait_s(status(503), "always", 50, 9.9) == 0.0
    assert retries.wait_s(status(503), "always", 50, 10.1) is None
    assert retries.wait_s(status(503, 4.0), "always", 1, 7.0) is None


def test_after_the_last_attempt_there_is_none() -> None:
    assert Retries(attempts=1).wait_s(status(503), "always", 1, 0.0) is None
    with pytest.raises(ValueError, match="at least one attempt"):
        Retries(attempts=0)
