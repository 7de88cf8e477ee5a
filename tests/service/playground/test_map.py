"""The map in a real browser, on the page that needs no server. Four heaps of tea, jam, ale and things of no kind."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.browser.chromium import Page, browser, find_chromium
from service.release.map_page import map_page
from service.release.served_map import serve_map
from twotower.maps.item_map import NO_COLOUR, Colour, MapInfo, Region, along_curve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
MAP = "document.querySelector('#map').map"
SHADOW = "document.querySelector('#map').shadowRoot"
POINTS = f"{SHADOW}.querySelector('canvas')"  # drawn pixel by pixel, because this browser has no GPU


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    rng, kinds_M = np.random.default_rng(0), np.arange(400) % 4
    corners = np.array([[15_000, 15_000], [50_000, 15_000], [15_000, 50_000], [50_000, 50_000]])
    places_M2 = (corners[kinds_M] + rng.normal(scale=3000, size=(400, 2))).astype(np.uint16)
    names = ("TEA", "JAM & HONEY", "ALE")
    info = MapInfo(
        num_items=400,
        num_placed=0,
        colour_column="department",
        colours=tuple(Colour(name=name, count=100) for name in names),
        region_column="department",
        regions=tuple(Region(name=name, x=int(x), y=int(y), count=100) for name, (x, y) in zip(names, corners, strict=False)),
    )
    colours_M = np.array([0, 1, 2, NO_COLOUR], np.uint8)[kinds_M]
    drawn = along_curve(np.arange(400, dtype=np.uint32), places_M2, colours_M, info)
    items = [(f"item-{row}", f"PRODUCT {row}" if row % 4 < 3 else None) for row in drawn.rows_M.tolist()]
    file = tmp_path_factory.mktemp("page") / "map.html"
    file.write_text(map_page("Tea and jam", "release-1", serve_map(drawn, "release-1", 400).compressed, items))
    with browser() as chromium, chromium.page() as opened:
        opened.show_as(900, 700)
        opened.open(f"file://{file}")
        opened.wait_for(f"!!{MAP}")
        opened.evaluate(f"{MAP}.ready")
        yield opened


@pytest.fixture(autouse=True)
def whole(page: Page) -> None:
    """Every test begins with the whole map, and with the pointer elsewhere."""
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    page.evaluate(f"{SHADOW}.querySelector('.legend .title button').click(), {MAP}.look({{x: 32500, y: 32500, scale: 0.008}})")


def spot(page: Page, point: int) -> tuple[float, float]:
    """Where a point is in the window."""
    left, top = page.evaluate(
        f"(() => {{ const box = document.querySelector('#map').getBoundingClientRect(); const [x, y] = {MAP}.pixelsOf({point});"
        "return [box.left + x, box.top + y]; })()"
    )
    return left, top


def mouse(page: Page, kind: str, at: tuple[float, float], **more: Any) -> None:
    page.send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)


def test_the_page_draws_without_a_complaint_and_asks_nobody(page: Page) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.evaluate(f"{MAP}.timeRedraw()")
    pixels = f"new Uint32Array({POINTS}.getContext('2d').getImageData(0, 0, {POINTS}.width, {POINTS}.height).data.buffer)"
    colours = page.evaluate(f"new Set({pixels}).size")
    assert colours >= 5  # nothing, and four kinds


def test_pointing_at_an_item_tells_its_title_and_its_kind(page: Page) -> None:
    mouse(page, "mouseMoved", spot(page, 0))
    page.wait_for(f"!{SHADOW}.querySelector('.tip').hidden")
    title, about = page.evaluate(f"{SHADOW}.querySelector('.tip').innerText").split("\n", 1)
    assert title.startswith("Product ")
    assert "TEA · item-" in about


def test_a_click_picks_the_item_and_a_drag_moves_the_map_instead(page: Page) -> None:
    page.evaluate("window.picked = [], document.querySelector('#map').addEventListener('pick', (e) => picked.push(e.detail))")
    at = spot(page, 0)
    mouse(page, "mousePressed", at, button="left", clickCount=1)
    mouse(page, "mouseReleased", at, button="left", clickCount=1)
    page.wait_for("picked.length === 1")
    assert page.evaluate("picked[0].title").startswith("PRODUCT ")
    mouse(page, "mousePressed", at, button="left")
    mouse(page, "mouseMoved", (at[0] + 60, at[1] - 20), button="left", buttons=1)
    mouse(page, "mouseReleased", (at[0] + 60, at[1] - 20), button="left")
    moved = spot(page, 0)
    assert (round(moved[0] - at[0]), round(moved[1] - at[1])) == (60, -20)
    assert page.evaluate("picked.length") == 1


def test_the_wheel_zooms_and_what_is_under_the_pointer_stays_there(page: Page) -> None:
    before, other = spot(page, 0), spot(page, 399)
    mouse(page, "mouseWheel", before, deltaX=0, deltaY=-400)
    page.wait_for(f"Math.abs({MAP}.pixelsOf(399)[0] - {MAP}.pixelsOf(0)[0]) > {1.5 * abs(other[0] - before[0])}")
    after = spot(page, 0)
    assert max(abs(after[0] - before[0]), abs(after[1] - before[1])) < 3  # a wheel tells whole pixels


def test_a_kind_is_hidden_and_shown_by_its_row_of_the_legend(page: Page) -> None:
    row = f"{SHADOW}.querySelector('.kind[data-kind=\"0\"]')"
    assert page.evaluate(f"{row}.innerText").split() == ["TEA", "100"]  # three letters may be a short name
    page.evaluate(f"{row}.click()")
    assert page.evaluate(f"{row}.getAttribute('aria-pressed')") == "false"
    mouse(page, "mouseMoved", spot(page, 0))
    page.evaluate("new Promise((done) => setTimeout(done, 150))")
    assert page.evaluate(f"{SHADOW}.querySelector('.tip').hidden")
    page.evaluate(f"{row}.click()")
    assert page.evaluate(f"{row}.getAttribute('aria-pressed')") == "true"


def test_keys_zoom_and_tell_the_item_in_the_middle(page: Page) -> None:
    page.evaluate(f"{MAP}.look({{x: 15000, y: 15000, scale: 0.008}}), {SHADOW}.querySelector('.ink').focus()")
    apart = f"Math.abs({MAP}.pixelsOf(399)[0] - {MAP}.pixelsOf(0)[0])"
    before = page.evaluate(apart)
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="+", code="Equal", windowsVirtualKeyCode=187)
    page.wait_for(f"{apart} > {1.5 * before}")
    page.wait_for(f"{SHADOW}.querySelector('.unseen').textContent.startsWith('Product ')")


def test_recommended_and_past_items_are_marked(page: Page) -> None:
    ink = f"{SHADOW}.querySelector('.ink')"
    pixels = f"({MAP}.timeRedraw(), {ink}.getContext('2d').getImageData(0, 0, {ink}.width, {ink}.height).data)"
    changed = f"{pixels}.filter((value, at) => value !== before[at]).length"
    page.evaluate(f"window.before = {pixels}, 0")
    page.evaluate(f"{MAP}.highlight({{recommended: ['item-0', 'unheard of'], history: ['item-5']}})")
    assert page.evaluate(changed) > 200
    page.evaluate(f"{MAP}.highlight([])")
    assert page.evaluate(changed) == 0
