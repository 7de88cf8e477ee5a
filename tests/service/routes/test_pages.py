"""The pages and their files over HTTP. What they do in a browser: tests/service/playground."""

import re

import pytest

from tests.service.conftest import Client

MAX_PAGE_BYTES, MAX_VIEWER_BYTES = 100_000, 700_000  # compressed


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_is_html_with_a_policy_and_all_its_files_are_there(client: Client, path: str) -> None:
    page = client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="((?:playground|docs)/[^"]+)"', page.text)
    assert len(links) >= 4
    for link in links:
        found = client.get(f"/{link}")
        assert found.status_code == 200, link
        assert "immutable" in found.headers["cache-control"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_names_no_other_server(client: Client, path: str) -> None:
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', client.get(path).text)


def test_every_module_that_a_module_imports_is_served(client: Client) -> None:
    base = re.findall(r'src="(playground/[^/]+)/app\.js"', client.get("/").text)[0]
    queue, seen = ["app.js"], set[str]()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        script = client.get(f"/{base}/{name}")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8", name
        queue += re.findall(r'(?:from|import\() ?"\./([\w.-]+)"', script.text)
        queue += re.findall(r'import\("\./([\w.-]+)"\)', script.text)
    assert {"app.js", "api.js", "person.js", "planner.js", "server.js", "map.js", "map-draw.js"} <= seen


def test_a_client_that_takes_gzip_gets_it(client: Client) -> None:
    packed = client.request("GET", "/openapi.json", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["openapi"] == "3.1.0"


def test_the_pages_are_light(client: Client) -> None:
    pages = next(route.handler.__self__ for route in client.app.asgi.table.routes if route.paths == ("/",))  # type: ignore[union-attr]
    without_map = [size for name, size in pages.assets.sizes.items() if not name.startswith("map")]
    assert sum(without_map) < MAX_PAGE_BYTES
    assert sum(pages.viewer.sizes.values()) < MAX_VIEWER_BYTES
