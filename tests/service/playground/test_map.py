"""The map in a real browser, on the page that needs no server. A square of tea, jam, ale and things of no kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import pytest

from benchmarks.browser.chromium import Page, browser, find_chromium
from service.release.map_page import map_page
from service.release.served_map import serve_map
from tests.service.playground.conftest import window_places
from twotower.data.features import Floats
from twotower.maps.item_map import NO_COLOUR, Colour, MapInfo, Region, along_curve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
SHADOW = "document.querySelector('#map').shadowRoot"
POINTS = f"{SHADOW}.querySelector('canvas')"  # drawn pixel by pixel, because this browser has no GPU
TIP = f"{SHADOW}.querySelector('.tip')"
SAID = f"{SHADOW}.querySelector('.unseen').textContent"


@dataclass(frozen=True, slots=True)
class Shown:
    """A map of 20 times 20 items. Item r stands in column r % 20 from the left and line r // 20 from below."""

    page: Page
    places_R2: Floats  # R: item rows; in the window, of the whole map

    def spot(self, row: int) -> tuple[float, float]:
        x, y = self.places_R2[row].tolist()
        return x, y

    def mouse(self, kind: str, at: tuple[float, float], **more: Any) -> None:
        self.page.send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)

    def told(self, at: tuple[float, float]) -> str:
        """What the map tells of the item there."""
        self.mouse("mouseMoved", (2, 2))
        self.page.wait_for(f"{TIP}.hidden")
        self.mouse("mouseMoved", at)
        self.page.wait_for(f"!{TIP}.hidden")
        return str(self.page.evaluate(f"{TIP}.innerText"))

    def press(self, key: str, code: str, number: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.page.send("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    rows_M = np.arange(400, dtype=np.uint32)
    places_M2 = (np.stack([rows_M % 20, rows_M // 20], 1) * 3200 + 2000).astype(np.uint16)
    names, kinds_M = ("TEA", "JAM & HONEY", "ALE"), rows_M % 20 // 10 + rows_M // 200 * 2
    info = MapInfo(
        num_items=400,
        num_placed=0,
        colour_column="department",
        colours=tuple(Colour(name=name, count=100) for name in names),
        region_column="department",
        regions=tuple(Region(name=name, x=9000 + 32_000 * (kind % 2), y=9000, count=100) for kind, name in enumerate(names)),
    )
    drawn = along_curve(rows_M, places_M2, np.array([0, 1, 2, NO_COLOUR], np.uint8)[kinds_M], info)
    items = [(f"item-{row}", f"PRODUCT {row}" if row != 215 else None) for row in drawn.rows_M.tolist()]
    file = tmp_path_factory.mktemp("page") / "map.html"
    file.write_text(map_page("Tea and jam", "release-1", serve_map(drawn, "release-1", 400).compressed, items))
    with browser() as chromium, chromium.page() as page:
        page.show_as(900, 700, motion=False)
        page.open(f"file://{file}")
        page.wait_for(f"{SHADOW}?.querySelector('.zoom').hidden === false")
        yield Shown(page, window_places(page, places_M2))


@pytest.fixture
def shown(opened: Shown) -> Shown:
    """Every test begins with the whole map, and with the pointer elsewhere."""
    opened.mouse("mouseMoved", (2, 2))
    opened.page.evaluate(f"{SHADOW}.querySelector('.legend .title button').click()")
    opened.page.evaluate(f"{SHADOW}.querySelector('.zoom button:last-child').click()")
    return opened


def test_the_page_draws_without_a_complaint_and_asks_nobody(shown: Shown) -> None:
    pixels = f"new Uint32Array({POINTS}.getContext('2d').getImageData(0, 0, {POINTS}.width, {POINTS}.height).data.buffer)"
    shown.page.wait_for(f"new Set({pixels}).size >= 5")  # nothing, and four kinds
    assert shown.page.complaints == []
    assert [url for url in shown.page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_pointing_at_an_item_tells_its_title_and_its_kind(shown: Shown) -> None:
    assert shown.told(shown.spot(22)).splitlines() == ["Product 22", "Tea · item-22"]
    assert shown.told(shown.spot(215)).splitlines() == ["item-215", "item-215"]


def test_a_drag_moves_the_map(shown: Shown) -> None:
    x, y = shown.spot(22)
    shown.mouse("mousePressed", (x, y), button="left")
    shown.mouse("mouseMoved", (x + 60, y - 20), button="left", buttons=1)
    shown.mouse("mouseReleased", (x + 60, y - 20), button="left")
    assert "item-22" in shown.told((x + 60, y - 20))
    assert "item-23" in shown.told((shown.spot(23)[0] + 60, shown.spot(23)[1] - 20))


def test_the_wheel_zooms_and_what_is_under_the_pointer_stays_there(shown: Shown) -> None:
    (x, y), (beside, _) = shown.spot(210), shown.spot(212)
    shown.mouse("mouseMoved", (x, y))
    shown.mouse("mouseWheel", (x, y), deltaX=0, deltaY=-400)
    assert "item-210" in shown.told((x, y))
    assert "item-212" in shown.told((x + (beside - x) * exp(400 * 0.0018), y))


def test_a_kind_is_hidden_and_shown_by_its_row_of_the_legend(shown: Shown) -> None:
    row = f"{SHADOW}.querySelector('.kind[data-kind=\"0\"]')"
    assert shown.page.evaluate(f"{row}.innerText").split() == ["Tea", "100"]
    shown.page.evaluate(f"{row}.click()")
    assert shown.page.evaluate(f"{row}.getAttribute('aria-pressed')") == "false"
    shown.mouse("mouseMoved", shown.spot(22))
    shown.page.evaluate("new Promise((done) => setTimeout(done, 150))")
    assert shown.page.evaluate(f"{TIP}.hidden")
    shown.page.evaluate(f"{row}.click()")
    assert shown.page.evaluate(f"{row}.getAttribute('aria-pressed')") == "true"
    assert "item-22" in shown.told(shown.spot(22))


def test_the_kinds_without_a_colour_of_their_own_have_a_row_too(shown: Shown) -> None:
    assert shown.page.evaluate(f"{SHADOW}.querySelector('.kind:last-child').innerText").split("\n") == ["none given", "100"]


def test_keys_move_and_zoom_and_tell_the_item_in_the_middle(shown: Shown) -> None:
    shown.page.evaluate(f"{SHADOW}.querySelector('.ink').focus()")
    shown.press("+", "Equal", 187)
    shown.page.wait_for(f"/^Product (189|190|209|210), /.test({SAID})")
    shown.press("ArrowRight", "ArrowRight", 39)  # an eighth of the width, which is two or three columns
    shown.page.wait_for(f"/^Product (191|192|193|211|212|213), /.test({SAID})")
    shown.page.evaluate(f"{SHADOW}.querySelector('.ink').blur()")
