"""The body of a batch, whose requests are decoded one by one."""

from typing import Any

import msgspec
import pytest

from service.api.batches import MAX_BATCH, BatchBody, BatchRequest, BatchResponse


def test_a_bad_request_does_not_make_the_body_bad() -> None:
    body = msgspec.json.decode(b'{"requests": [{}, 7, {"num_results": 0}]}', type=BatchBody)
    assert [bytes(raw) for raw in body.requests] == [b"{}", b"7", b'{"num_results": 0}']


@pytest.mark.parametrize("kind", [BatchBody, BatchRequest])
def test_a_batch_has_a_largest_size_and_no_other_field(kind: type[BatchBody | BatchRequest]) -> None:
    full = msgspec.json.encode({"requests": [{}] * MAX_BATCH})
    assert len(msgspec.json.decode(full, type=kind).requests) == MAX_BATCH
    bodies: list[dict[str, Any]] = [{"requests": [{}] * (MAX_BATCH + 1)}, {"requests": [], "x": 1}, {}]
    for body in bodies:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode(body), type=kind)


def test_a_result_is_documented_as_an_answer_or_an_error() -> None:
    results = msgspec.json.schema(BatchResponse)["$defs"]["BatchResponse"]["properties"]["results"]
    assert [kind["$ref"].rpartition("/")[2] for kind in results["items"]["oneOf"]] == ["RecommendResponse", "ErrorBody"]
