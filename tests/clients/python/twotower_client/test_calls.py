"""What both clients are made of."""

from collections.abc import Iterator

import pytest

from twotower_client import AllRejected
from twotower_client.answers import ErrorDetail, EventsResponse, Rejected
from twotower_client.calls import Tally, base_address, below, parts, with_ids
from twotower_client.requests import Event


def all_rejected(*indices: int) -> AllRejected:
    error = AllRejected(422, ErrorDetail(code="invalid_request", message="all", request_id="r"))
    error.rejected = [Rejected(index=index, reason="no") for index in indices]
    return error


def test_an_address_may_end_in_a_slash_and_have_a_path() -> None:
    assert base_address(" https://gateway/shop/ ") == "https://gateway/shop"


@pytest.mark.parametrize(("name", "path"), [("a b", "/v1/u/a%20b"), ("..", "/v1/u/%2E%2E"), ("a/ü", "/v1/u/a%2F%C3%BC")])
def test_an_id_is_one_part_of_the_path(name: str, path: str) -> None:
    assert below("/v1/u", name) == path


def test_parts_are_read_as_they_are_needed() -> None:
    read = []

    def elements() -> Iterator[int]:
        for n in range(5):
            read.append(n)
            yield n

    made = parts(elements(), 2)
    assert next(made) == [0, 1]
    assert read == [0, 1]
    assert list(made) == [[2, 3], [4]]


def test_an_event_keeps_its_own_id_and_the_callers_event_stays_as_it_is() -> None:
    given: list[Event] = [
        {"event_type": "view", "timestamp": 0},
        {"event_type": "view", "timestamp": 0, "event_id": "mine"},
        {"event_type": "view", "timestamp": 0, "event_id": None},
    ]
    first, second, third = with_ids(given)
    assert second is given[1]
    assert "event_id" not in given[0]
    assert len({first["event_id"], second["event_id"], third["event_id"]}) == 3
    assert third["event_id"]


def test_places_of_rejected_events_are_those_in_the_whole() -> None:
    tally = Tally()
    tally.add(3, EventsResponse(accepted=2, duplicates=0, rejected=[Rejected(index=1, reason="no")]))
    tally.add(2, all_rejected(0, 1))
    assert tally.of_events() == EventsResponse(
        accepted=2, duplicates=0, rejected=[Rejected(index=index, reason="no") for index in (1, 3, 4)]
    )


def test_only_when_nothing_is_stored_at_all_is_it_an_error() -> None:
    tally = Tally()
    tally.add(1, all_rejected(0))
    tally.add(1, all_rejected(0))
    with pytest.raises(AllRejected) as raised:
        tally.of_events()
    assert [one.index for one in raised.value.rejected] == [0, 1]
