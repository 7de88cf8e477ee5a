"""The OpenAPI document, made from the types that the server decodes and encodes with."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from service.api.errors import STATUS, ErrorBody
from service.api.schemas import AllRejected
from service.http.route_table import Route, around

_KEY = "API key"
_REFERENCE = "#/components/schemas/{name}"


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes. It names each route once; docs/api.md lists the aliases."""
    types = [t for r in routes for t in (r.takes, r.gives) if t is not None]
    _, components = msgspec.json.schema_components([*dict.fromkeys(types), ErrorBody, AllRejected], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.paths[0].replace(":path", ""), {})[route.method.lower()] = operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "twotower", "version": version, "description": "Predicts what a person does next."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {_KEY: {"type": "http", "scheme": "bearer", "bearerFormat": "ID.SECRET"}},
        },
    }


def operation(route: Route) -> dict[str, Any]:
    """The OpenAPI entry of one method of one path."""
    success: dict[str, Any] = {"description": (route.gives.__doc__ if route.gives else "") or "Success"}
    if route.gives:
        success["content"] = _json(route.gives)
    refusals = {
        str(status): {"description": ", ".join(c for c in STATUS if STATUS[c] == status), "content": _json(ErrorBody)}
        for status in STATUS.values()
    }
    named_by = "".join(around(route.paths[0])).strip("/").replace("/", "_") + "_" * route.paths[0].endswith("}")
    result: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{named_by or 'root'}",
        "summary": (route.takes or route.asks or route.gives or Route).__doc__ if route.gives else "",
        "responses": {str(route.status): success, **refusals},
    }
    if route.scope != "open":
        result["security"] = [{_KEY: []}, {}]  # a server without keys asks for none
    if route.takes:
        result["requestBody"] = {"required": True, "content": _json(route.takes)}
    if route.asks:
        result["parameters"] = query_parameters(route.asks)
    if named := re.search(r"{(\w+)", route.paths[0]):
        result["parameters"] = [{"name": named[1], "in": "path", "required": True, "schema": {"type": "string"}}]
    return result


def query_parameters(kind: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """The query parameters of a route, one for each field."""
    _, components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    described = components[kind.__name__]
    return [
        {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": schema}
        for name, schema in described["properties"].items()
    ]


def _json(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}}
