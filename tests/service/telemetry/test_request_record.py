import pytest

from service.telemetry.request_record import RequestRecord

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("given", "expected"), [(f"00-{TRACE}-b7ad6b7169203331-01", TRACE), ("", None), (TRACE, None), (f"00-{TRACE}-x-01\n", None)]
)
def test_the_trace_is_the_callers(given: str, expected: str | None) -> None:
    assert RequestRecord("r", 0.0, given).trace_id == expected


def test_a_request_took_from_its_head_to_its_end() -> None:
    assert RequestRecord("r", 1.5, ended_s=2.0).duration_s == 0.5
