"""A real server of the tiny shop and a real browser. Without a Chromium the tests are skipped."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.browser.chromium import Browser, Page, browser, find_chromium
from benchmarks.browser.playground import LISTED, QUIET
from embedder_cache.build import build_release
from embedder_cache.maps import process
from embedder_cache.maps.drawing import draw
from embedder_cache.maps.process import Drawn, MapOptions
from tests.service.key_files import entry, write_keys
from tests.service.test_command import serving
from twotower.artefacts.bundle import load_bundle
from twotower.data.features import Floats
from twotower.maps.item_map import Places


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


@dataclass(frozen=True, slots=True)
class Shops:
    """Three servers of the tiny shop, each with histories of its own."""

    plain: Shop  # its release has a map
    spare: Shop  # may be changed and ended
    guarded: Shop  # with a key for everything, one that only recommends, and one that may ask three times


@pytest.fixture(scope="module")
def mapped_store(tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose release has a map: the items stand in a square, 20 beside each other, in the order of their rows."""
    store = tmp_path_factory.mktemp("mapped")

    def in_a_square(units_MD: Floats, start_M2: Floats | None) -> Floats:
        rows_M = np.arange(len(units_MD))
        return np.stack([rows_M % 20, rows_M // 20], 1).astype(np.float32)

    def draw_here(directory: Path, served: Path | None, options: MapOptions, how: str) -> Drawn:
        drawn = draw(directory, served, options.colour, in_a_square)
        return Drawn(num_points=len(drawn), num_items=len(drawn), num_placed=0, colour=drawn.info.colour_column)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_run", draw_here)  # UMAP takes a process of its own, and half a minute
        items, events = tiny_shop / "items.parquet", tiny_shop / "events.parquet"
        assert build_release(load_bundle(tiny_bundle), items, store, events, map_options=MapOptions()).num_points == 400
    return store


@pytest.fixture(scope="module")
def shops(tiny_store: Path, mapped_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    """They are started at the same time, because a start takes seconds."""
    directory = tmp_path_factory.mktemp("shops")
    everything, few = entry("all", "recommend", "events:write", "admin", "metrics"), entry("few", "recommend", rate=0.01, burst=3)
    keys = write_keys(directory / "keys.toml", everything, entry("some", "recommend"), few)
    with ExitStack() as stack, ThreadPoolExecutor() as pool:

        def start(name: str) -> Shop:
            options = ["--history", f"sqlite:///{directory / name}.db", *(["--keys", str(keys)] if name == "guarded" else [])]
            process, line = stack.enter_context(serving(mapped_store if name == "plain" else tiny_store, *options))
            return Shop(line.split()[6], process)

        yield Shops(*pool.map(start, ("plain", "spare", "guarded")))


@pytest.fixture(scope="module")
def shop(shops: Shops) -> Shop:
    return shops.plain


def window_places(page: Page, places_M2: Places) -> Floats:
    """Where points are in the window, [M, 2], while a map of them is shown as a whole.

    That is done when all are seen but for the outermost 4 of 1,000 at each side.
    """
    left, top, width, height = page.evaluate(
        "(() => { const e = document.querySelector('#map'), b = e.getBoundingClientRect();"
        "return [b.left + e.clientLeft, b.top + e.clientTop, e.clientWidth, e.clientHeight]; })()"
    )
    sorted_M2, outermost = np.sort(places_M2.astype(np.float32), axis=0), len(places_M2) * 4 // 1000
    low_2, high_2 = sorted_M2[outermost], sorted_M2[-1 - outermost]
    scale = min((np.array([width, height]) - 24) / (high_2 - low_2))
    middle_2 = np.array([left + width / 2, top + height / 2])
    return np.asarray(middle_2 + (places_M2 - (low_2 + high_2) / 2) * np.array([scale, -scale]), np.float32)


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
