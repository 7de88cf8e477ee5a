"""GET /v1/plan over HTTP."""

import json

import pytest

from tests.service.conftest import Client
from training.commands.plan_command import main


def test_the_answer_is_what_the_command_prints(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    found = client.get("/v1/plan?flops=1e18&metric=ndcg%4010&items=1e8&events=1e9&gpu_memory=80GB&rate=3e14")
    assert found.status_code == 200
    options = ["--flops", "1e18", "--metric", "ndcg@10", "--items", "1e8", "--events", "1e9", "--gpu-memory", "80GB"]
    main([*options, "--rate", "3e14", "--json"])
    assert found.json() == json.loads(capsys.readouterr().out)


def test_budget_and_metric_are_enough(client: Client) -> None:
    found = client.get("/v1/plan?flops=1e15&metric=recall@10").json()
    assert (found["model"]["width"], found["data"], found["memory"]["shards"]) == (104, None, None)


@pytest.mark.parametrize(
    ("query", "field", "why"),
    [
        ("flops=1e18", "metric", "name it first"),
        ("flops=1e18&metric=clicks", "metric", "there is no metric 'clicks'"),
        ("metric=ndcg@10", "flops", "missing required field"),
        ("flops=much&metric=ndcg@10", "flops", "Expected `float`"),
        ("flops=1e18&metric=ndcg@10&gpu_memory=much", "gpu_memory", "such as 80GB"),
        ("flops=1e18&metric=ndcg@10&gpu=80GB", "gpu", "unknown field"),
        ("flops=1e10&metric=ndcg@10", None, "give at least"),
        ("flops=nan&metric=ndcg@10", None, "give a positive number"),
        ("flops=1e18&metric=ndcg@10&items=inf", None, "items is inf"),
        ("flops=1e18&metric=ndcg@10&rate=0", None, "such as 3e14"),
    ],
)
def test_a_query_that_cannot_be_planned_is_refused_with_its_field(
    client: Client, query: str, field: str | None, why: str
) -> None:
    found = client.get(f"/v1/plan?{query}")
    assert found.status_code == 422
    error = found.json()["error"]
    assert (error["code"], error.get("field")) == ("invalid_request", field)
    assert why in error["message"]


def test_the_document_lists_the_parameters(client: Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/plan"]["get"]
    parameters = {one["name"]: one["required"] for one in described["parameters"]}
    assert parameters == {"flops": True, "metric": True, "items": False, "events": False, "gpu_memory": False, "rate": False}
    assert all(one["in"] == "query" for one in described["parameters"])
