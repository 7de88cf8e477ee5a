"""The pages as `make docs` builds them: whole, without another site, and readable from a folder."""

import json
import re
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from benchmarks.browser.chromium import Page, browser, find_chromium
from tests.documents import ROOT, name_of, without_blocks

DOCS = ROOT / "docs"
LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "srcset", "video": "src"}  # without a click


class Html(HTMLParser):
    """What a built page holds: its anchors, where it leads, and what it loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.update(value for name in ("id", "name") if (value := found.get(name)))
        if tag == "a" and (link := found.get("href")):
            self.links.append(link)
        if tag in LOADS and (address := found.get(LOADS[tag])):
            self.loads.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. A warning, such as that of a link that leads nowhere, ends it."""
    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # those of mkdocs and its libraries
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Html]:
    return {path: Html(path) for path in site.rglob("*.html")}


def navigation() -> list[str]:
    """The pages that mkdocs.yml names, in its order."""
    sections = yaml.safe_load(re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text()))["nav"]
    return [page for section in sections for entries in section.values() for entry in entries for page in entry.values()]


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(navigation()) == sorted(["index.md", "contributing.md", *(path.name for path in DOCS.glob("*.md"))]), (
        "name the page under `nav` in mkdocs.yml"
    )


def test_every_page_of_the_navigation_is_built_and_can_be_searched(site: Path) -> None:
    sections = json.loads((site / "search/search_index.json").read_text())["docs"]
    assert {section["location"].partition("#")[0] for section in sections} == {
        page.replace(".md", ".html") for page in navigation()
    }
    for page in navigation():
        assert (site / page).with_suffix(".html").exists()


def test_no_page_loads_anything_from_another_site(site: Path, pages: dict[Path, Html]) -> None:
    assert [(name_of_page(path, site), url) for path, page in pages.items() for url in page.loads if urlsplit(url).netloc] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*|@import[^;]*", styles) == []


def test_every_link_of_the_built_pages_leads_to_a_file_and_an_anchor_that_are_there(site: Path, pages: dict[Path, Html]) -> None:
    wrong = []
    for path, page in pages.items():
        if path.name == "404.html":  # is shown in place of any address, so its links begin with /
            continue
        for link in page.links:
            split = urlsplit(link)
            if split.scheme or split.netloc:
                continue
            target = (path.parent / unquote(split.path)).resolve() if split.path else path
            if not target.is_file() or (split.fragment and unquote(split.fragment) not in pages[target].ids):
                wrong.append((name_of_page(path, site), link))
    assert wrong == []


def name_of_page(path: Path, site: Path) -> str:
    return str(path.relative_to(site))


def test_the_readme_and_the_rules_for_contributors_are_pages_whose_links_stay_on_the_site(
    site: Path, pages: dict[Path, Html]
) -> None:
    assert "quickstart.html" in pages[site / "index.html"].links
    assert "contributing.html" in pages[site / "index.html"].links
    assert {"source/LICENSE.html", "source/deploy.html"} <= set(pages[site / "index.html"].links)
    assert "api.html" in pages[site / "contributing.html"].links
    assert "service/" in (site / "contributing.html").read_text()


def test_a_file_of_the_code_that_a_page_names_is_shown_as_it_is(site: Path) -> None:
    shown = (site / "source/twotower/model/scoring.py.html").read_text()
    text = "".join(re.findall(r">([^<]+)<", shown[shown.index("<pre") : shown.index("</pre>")]))
    assert "def past_scores" in text


def test_a_list_within_a_list_is_one_on_the_site_too(site: Path) -> None:
    text = without_blocks((DOCS / "api.md").read_text())
    nested = len(re.findall(r"^  - ", text, re.MULTILINE))
    article = (site / "api.html").read_text().partition("<article")[2].partition("</article>")[0]
    depth = found = 0
    for tag in re.findall(r"<(/?ul|li)\b", article):
        depth += {"ul": 1, "/ul": -1}.get(tag, 0)
        found += tag == "li" and depth == 2
    assert found == nested > 5


def test_the_openapi_document_is_on_the_site(site: Path) -> None:
    described = json.loads((site / "openapi.json").read_text())
    assert described["openapi"] == "3.1.0"
    assert "/v1/recommend" in described["paths"]


@pytest.mark.parametrize("path", sorted(DOCS.glob("images/*.svg")), ids=name_of)
def test_every_picture_can_be_read_on_light_and_on_dark(path: Path) -> None:
    """It has colours for both, or a ground of its own."""
    text = path.read_text()
    assert "prefers-color-scheme: dark" in text or re.search(r'<rect width="100%" height="100%" fill="#\w+"', text)


# As a reader sees them, who opened a file: no server, no network.

WIDE = """[...document.querySelectorAll('.md-typeset__scrollwrap')].filter(one => one.scrollWidth > one.clientWidth + 1)
  .map(one => one.innerText.slice(0, 60))"""  # tables that scroll sideways


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """A tab of a real browser."""
    if not find_chromium():
        pytest.skip("no Chromium is installed")
    with browser() as chromium, chromium.page() as page:
        yield page


def test_no_table_scrolls_sideways_at_1200_pixels(site: Path, tab: Page) -> None:
    tab.show_as(1200, 900)
    wide = {}
    for page in navigation():
        tab.open((site / page).with_suffix(".html").as_uri())
        tab.wait_for("[...document.querySelectorAll('article table')].every(one => one.closest('.md-typeset__scrollwrap'))")
        assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth"), page
        wide[page] = tab.evaluate(WIDE)
    assert {page: tables for page, tables in wide.items() if tables} == {}


def test_the_search_finds_a_page_without_a_network(site: Path, tab: Page) -> None:
    tab.show_as(1280, 900)
    before = len(tab.requests)
    tab.open((site / "index.html").as_uri())
    tab.click(".md-search__input")
    tab.type("rollback")
    tab.wait_for("document.querySelectorAll('.md-search-result__item a').length > 1")
    found = tab.evaluate("[...document.querySelectorAll('.md-search-result__item a')].map(one => one.getAttribute('href'))")
    assert any("nightly.html" in link or "operations.html" in link for link in found)
    assert not any("source/" in link for link in found)
    assert {url.partition(":")[0] for url in tab.requests[before:]} <= {"file", "data", "blob"}
    assert tab.complaints == []


def test_a_picture_follows_the_colours_that_a_reader_chose_and_not_those_of_the_system(site: Path, tab: Page) -> None:
    tab.show_as(1280, 900, scheme="dark")
    tab.open((site / "concepts.html").as_uri())
    scheme = "getComputedStyle(document.querySelector('article img')).colorScheme"  # which answers an SVG's media query
    assert tab.evaluate(scheme) == "dark"
    tab.evaluate("document.querySelectorAll('.md-header__option label:not([hidden])')[0].click()")  # from the system's to light
    assert tab.evaluate(scheme) == "light"
