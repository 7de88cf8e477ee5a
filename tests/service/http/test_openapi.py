import json
import re
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from service.api.schemas import RecommendRequest, RecommendResponse
from tests.service.conftest import Client


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def test_every_route_of_the_contract_is_described(document: dict[str, Any]) -> None:
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == {
        ("post", "/v1/recommend"),
        ("post", "/v1/recommend/batch"),
        ("post", "/v1/score"),
        ("post", "/v1/similar"),
        ("post", "/v1/events"),
        ("put", "/v1/items"),
        ("delete", "/v1/items"),
        ("get", "/v1/items/{item_id}"),
        ("get", "/v1/catalogue"),
        ("get", "/v1/items"),
        ("get", "/v1/users"),
        ("get", "/v1/users/{user_id}"),
        ("delete", "/v1/users/{user_id}"),
        ("get", "/v1/plan"),
        ("get", "/v1/map"),
        ("post", "/v1/map/points"),
        ("get", "/v1/releases"),
        ("post", "/v1/admin/activate"),
        ("post", "/v1/admin/rollback"),
        ("post", "/v1/admin/refresh"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(names) <= set(document["components"]["schemas"])
    assert {"RecommendRequest", "RecommendResponse", "Event", "ErrorBody"} <= set(names)


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", [RecommendRequest, RecommendResponse])
def test_the_document_has_the_fields_and_limits_the_server_decodes_with(
    document: dict[str, Any], kind: type[msgspec.Struct]
) -> None:
    described = document["components"]["schemas"][kind.__name__]
    assert set(described["properties"]) == set(kind.__struct_fields__)
    assert "examples" not in described


def test_limits_are_in_the_document(document: dict[str, Any]) -> None:
    results = document["components"]["schemas"]["RecommendRequest"]["properties"]["num_results"]
    assert (results["minimum"], results["maximum"], results["default"]) == (1, 500, 10)


def test_a_refusal_is_described_by_every_code_it_may_have(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/recommend"]["post"]["responses"]
    assert responses["422"]["description"] == "invalid_request, page_expired"


def test_every_route_keeps_to_the_document_whatever_it_is_sent(shared_client: Client) -> None:
    """Generated requests, right and wrong by the document: every answer is of a status and a body that it names."""
    schema = schemathesis.openapi.from_dict(shared_client.get("/openapi.json").json())
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        check_operation(shared_client, found.ok())


def check_operation(client: Client, operation: Any) -> None:
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy() | operation.as_strategy(GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://shop")
        body = {"content": msgspec.json.encode(sent["json"])} if sent.get("json") is not None else {}
        headers = {"content-type": "application/json"} if body else {}
        response = client.request(case.method, sent["url"], headers=headers, **body)
        assert response.status_code < 500 or response.json()["error"]["code"] in ("delta_off", "deadline_exceeded")
        case.validate_response(response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance])

    check()
