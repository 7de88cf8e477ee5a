"""The table of routes: the paths of each, the scope that a key needs for it, and the port that it is served on."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.http.keys import Scope

Handler = Callable[[Request], Awaitable[Response]]
HotHandler = Callable[[Any], Awaitable[bytes]]  # from decoded to encoded body; the front does the HTTP part


@dataclass(frozen=True, slots=True)
class Route:
    """One route, the scope that it needs, and the types from which its OpenAPI entry is made."""

    method: str
    paths: tuple[str, ...]  # the first is the route's name, the others are aliases
    handler: Handler | None = None  # None: `hot` serves the route, or FastAPI does
    takes: type[msgspec.Struct] | None = None
    asks: type[msgspec.Struct] | None = None  # its query parameters
    gives: type[msgspec.Struct] | None = None
    status: int = 200
    scope: Scope | Literal["open"] | None = None  # None: no key gives access
    private: bool = False  # served only on the admin port, if there is one
    decode: Callable[[bytes], Any] | None = None  # decodes the body of a hot route; ApiError says what is wrong with it
    hot: HotHandler | None = None
    takes_beacons: bool = False  # also takes JSON as text/plain, from pages of allowed origins
    refuse_early: Callable[[Any], None] | None = None  # called with the decoded body while others wait; ApiError: no room


class RouteTable:
    """Finds the route of a request. A path that is not in the table is not served, even if FastAPI has a route for it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, dict[str, Route]] = {}
        below: dict[tuple[str, str], dict[str, Route]] = {}  # by what stands before and behind the parameter of a path
        for route in self.routes:
            for path in route.paths:
                methods = below.setdefault(around(path), {}) if "{" in path else self._exact.setdefault(path, {})
                self._add(methods, route)
        # Of several that a path fits, the one that says most about its beginning, then about its end: any user's id may end in
        # what stands behind the parameter of another route.
        self._below = sorted(below.items(), key=lambda known: (-len(known[0][0]), -len(known[0][1])))

    @staticmethod
    def _add(methods: dict[str, Route], route: Route) -> None:
        methods[route.method] = route
        if route.method == "GET":
            methods["HEAD"] = route

    def at(self, path: str, private: bool) -> dict[str, Route]:
        """The routes of a path by method; with `private`, also those that are served only on the admin port."""
        methods = self._exact.get(path)
        if methods is None:
            methods = next((below for ends, below in self._below if fits(path, *ends)), {})
        return methods if private else {m: route for m, route in methods.items() if not route.private}

    @staticmethod
    def parameters(route: Route, path: str) -> dict[str, str]:
        """The parameter of a path by its name: everything between what the route has around it, including line breaks."""
        for known in route.paths:
            if "{" in known and fits(path, *around(known)):
                prefix, suffix = around(known)
                return {known[len(prefix) + 1 : known.index(":")]: path[len(prefix) : len(path) - len(suffix)]}
        return {}


def around(path: str) -> tuple[str, str]:
    """What stands before and behind the parameter of a route's path: "/v1/users/" and "" of "/v1/users/{user_id:path}"."""
    prefix, _, rest = path.partition("{")
    return prefix, rest.partition("}")[2]


def fits(path: str, prefix: str, suffix: str) -> bool:
    """Whether a path begins and ends so."""
    return len(path) >= len(prefix) + len(suffix) and path.startswith(prefix) and path.endswith(suffix)


def choose(methods: dict[str, Route], method: str, path: str) -> Route:
    """The route that answers; ApiError not_found for an unknown path, method_not_allowed for an unknown method."""
    if not methods:
        raise ApiError("not_found", f"there is no {path}; see /docs")
    if method not in methods:
        raise ApiError("method_not_allowed", f"{path} does not accept {method}; see /docs")
    return methods[method]
