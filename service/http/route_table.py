"""Where each route is found, who may use it, and on which port."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.http.keys import Scope

Handler = Callable[[Request], Awaitable[Response]]
HotHandler = Callable[[bytes], Awaitable[bytes]]  # body in, body out: the front speaks HTTP for it


@dataclass(frozen=True, slots=True)
class Route:
    """One route, what it asks of a key, and the types its OpenAPI entry is made from."""

    method: str
    paths: tuple[str, ...]  # the first is its name; the others are aliases
    handler: Handler | None = None  # None: `hot` serves it, or FastAPI by itself
    takes: type[msgspec.Struct] | None = None
    gives: type[msgspec.Struct] | None = None
    status: int = 200
    scope: Scope | Literal["open"] | None = None  # None: no key opens it
    private: bool = False  # on the admin port alone, where there is one
    hot: HotHandler | None = None
    admit: Callable[[], None] | None = None  # asked before the body is read; ApiError when there is no room
    glance: Callable[[bytes], None] | None = None  # asked, while others wait, with a body that is there already; the same


class RouteTable:
    """Finds the route of a request. What is not in it is not served, whatever the application inside knows."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, dict[str, Route]] = {}
        self._below: dict[str, dict[str, Route]] = {}  # "/v1/users/" of "/v1/users/{user_id:path}"
        for route in self.routes:
            for path in route.paths:
                prefix, parameter, _ = path.partition("{")
                self._add((self._below if parameter else self._exact).setdefault(prefix, {}), route)

    @staticmethod
    def _add(methods: dict[str, Route], route: Route) -> None:
        methods[route.method] = route
        if route.method == "GET":
            methods["HEAD"] = route

    def at(self, path: str, private: bool) -> dict[str, Route]:
        """The routes of a path by method; `private` when also those of the admin port are asked for."""
        methods = self._exact.get(path)
        if methods is None:
            methods = next((below for prefix, below in self._below.items() if path.startswith(prefix)), {})
        return methods if private else {m: route for m, route in methods.items() if not route.private}


def choose(methods: dict[str, Route], method: str, path: str) -> Route:
    """The route that answers; ApiError when the path is not there or does not know the method."""
    if not methods:
        raise ApiError("not_found", f"there is no {path}; see /docs")
    if method not in methods:
        raise ApiError("method_not_allowed", f"{path} does not answer to {method}; see /docs")
    return methods[method]
