"""The pages for people: the playground at /, and the reader of the interface at /docs. Both work without a network."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

import service
from service.http.assets import Asset, AssetSet, asset, read_files
from service.http.route_table import Route

_DIRECTORY = Path(service.__file__).parent / "playground"
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")  # Swagger UI as the package fastapi-offline carries it


class PageRoutes:
    """Handlers of the pages and of their files. No key is needed for them: they hold no data, and ask the other routes."""

    def __init__(self) -> None:
        swagger = files("fastapi_offline") / "static"
        viewer = {name: (swagger / name).read_bytes() for name in _SWAGGER}
        self.assets = AssetSet(read_files(_DIRECTORY))
        icon = {"icon.svg": (_DIRECTORY / "icon.svg").read_bytes()}
        self.viewer = AssetSet(viewer | icon | read_files(_DIRECTORY / "docs"))
        self._document: Asset | None = None

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        return (
            Route("GET", ("/",), self.home, scope="open", private=True),
            Route("GET", ("/playground/{file:path}",), self.file, scope="open", private=True),
            Route("GET", ("/docs",), self.docs, scope="open", private=True),
            Route("GET", ("/docs/{file:path}",), self.docs_file, scope="open", private=True),
            Route("GET", ("/openapi.json",), self.openapi, scope="open", private=True),
        )

    def describe(self, document: dict[str, Any]) -> None:
        """Set the OpenAPI document, once all routes are known."""
        self._document = asset(json.dumps(document, separators=(",", ":")).encode(), ".json")

    async def home(self, request: Request) -> Response:
        """GET /: the playground."""
        return self.assets.page("index.html", dict(request.scope["headers"]))

    async def file(self, request: Request) -> Response:
        """GET /playground/DIGEST/NAME: a file of the playground."""
        return self.assets.file(request.path_params["file"], dict(request.scope["headers"]))

    async def docs(self, request: Request) -> Response:
        """GET /docs: every route, its types, and a form to try it."""
        return self.viewer.page("docs.html", dict(request.scope["headers"]))

    async def docs_file(self, request: Request) -> Response:
        """GET /docs/DIGEST/NAME: a file of the reader."""
        return self.viewer.file(request.path_params["file"], dict(request.scope["headers"]))

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json: the OpenAPI document of all routes."""
        assert self._document, "`describe` is called before the first request"
        return self._document.answer(dict(request.scope["headers"]), "no-cache")
