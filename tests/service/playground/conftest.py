"""A real server of the tiny shop and a real browser. Without a Chromium the tests are skipped."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks.browser.chromium import Browser, Page, browser, find_chromium
from benchmarks.browser.playground import LISTED, QUIET
from tests.service.test_command import serving


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    with browser() as running:
        yield running


@dataclass(frozen=True, slots=True)
class Shop:
    """A running server."""

    url: str
    process: "subprocess.Popen[str]"

    def ask(self, method: str, path: str, **options: object) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            return http.request(method, path, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def start(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Shop]]:
    """Starts servers of the tiny shop, each with histories of its own."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Shop:
            history = f"sqlite:///{tmp_path_factory.mktemp('histories') / 'h.db'}"
            process, line = stack.enter_context(serving(tiny_store, "--history", history, *arguments))
            return Shop(line.split()[6], process)

        yield start


@pytest.fixture(scope="module")
def shop(start: Callable[..., Shop]) -> Shop:
    return start()


class Tab:
    """A page of the playground, and what a person sees in it."""

    def __init__(self, page: Page, shop: Shop) -> None:
        self.page, self.shop = page, shop

    def open(self, path: str = "/") -> "Tab":
        self.page.open(self.shop.url + path)
        self.page.wait_for(f"{LISTED} && {QUIET}")
        return self

    def texts(self, selector: str) -> list[str]:
        return list(self.page.evaluate(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)"))

    def text(self, selector: str) -> str:
        return " ".join(self.texts(selector))

    @property
    def listed(self) -> list[str]:
        return list(self.page.evaluate("[...document.querySelectorAll('#ranked > li')].map((e) => e.dataset.item)"))

    @property
    def history(self) -> list[str]:
        """The names in the timeline, the latest first."""
        return self.texts("#timeline .event .name")

    def set(self, selector: str, value: str, told: str = "input") -> None:
        """Give a field a value, and tell the page as the browser would."""
        field = f"document.querySelector({selector!r})"
        self.page.evaluate(f"{field}.value = {value!r}; {field}.dispatchEvent(new Event({told!r}, {{bubbles: true}}))")

    def settle(self) -> None:
        """Wait until the list follows the last change."""
        self.page.evaluate("new Promise((resolve) => setTimeout(resolve, 0))")
        self.page.wait_for(QUIET)

    def click(self, selector: str) -> None:
        self.page.click(selector)
        self.settle()

    def press(self, key: str, modifiers: int = 0) -> None:
        self.page.press(key, modifiers)
        self.settle()


@pytest.fixture
def tab(chromium: Browser, shop: Shop) -> Iterator[Tab]:
    """A tab of a browser without motion. What the console complains of fails the test that it belongs to."""
    with chromium.page() as page:
        page.show_as(1280, 900, motion=False)
        yield Tab(page, shop)
        assert not page.complaints
        assert all(url.startswith((shop.url, "data:", "blob:")) for url in page.requests), page.requests
