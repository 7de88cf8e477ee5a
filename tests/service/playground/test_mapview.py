"""The panel Map of the playground, on a server whose release has a map."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.browser.chromium import Browser
from tests.service.faults.processes import until
from tests.service.playground.conftest import Shop, Shops, Tab, window_places
from twotower.artefacts.bundle import read_table
from twotower.artefacts.release import ITEMS, read_pointer, release_path
from twotower.maps.item_map import MAP, ItemMap, read_map

SHADOW = "document.querySelector('#map').shadowRoot"
IS_OPEN = f"{SHADOW}?.querySelector('.zoom').hidden === false"
FAULT = f"{SHADOW}.querySelector('.fault')"
BOUGHT = ["item-3", "item-4", "item-5"]
# How many of the pixels around a place, in the distance of a ring, are drawn on, and whether the place itself is.
MARKS = """(places) => {
  const ink = SHADOW.querySelector('.ink'), box = ink.getBoundingClientRect();
  const copy = new OffscreenCanvas(ink.width, ink.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(ink, 0, 0);
  const cover = (x, y) => copy.getImageData(Math.round(x - box.left), Math.round(y - box.top), 1, 1).data[3];
  const around = (x, y) => [[6.5, 0], [-6.5, 0], [0, 6.5], [0, -6.5]].every(([dx, dy]) => cover(x + dx, y + dy));
  return places.map(([x, y]) => [around(x, y), cover(x, y) > 0]);
}""".replace("SHADOW", SHADOW)
OF_ANOTHER_RELEASE = """const ask = fetch;
window.numMaps = 0;
window.fetch = async (path, init) => {
  const answer = await ask(path, init);
  if (String(path).endsWith('v1/map')) numMaps++;
  return String(path).endsWith('v1/map/points') ? Response.json({ ...(await answer.json()), release: 'release-other' }) : answer;
};"""


@pytest.fixture(scope="module")
def drawn(mapped_store: Path) -> tuple[ItemMap, list[str]]:
    """The map, and the item at each of its points."""
    release = release_path(mapped_store, read_pointer(mapped_store).release)
    ids = read_table(release / ITEMS)["item_id"].to_pylist()
    shown = read_map(release / MAP, len(ids))
    return shown, [ids[row] for row in shown.rows_M.tolist()]


@pytest.fixture
def places(tab: Tab, shop: Shop, drawn: tuple[ItemMap, list[str]]) -> dict[str, tuple[float, float]]:
    """The map of Bob, who bought three items, with all kinds hidden, so that no name is written on it: where each item is."""
    events = [{"user_id": "bob", "item_id": item, "event_type": "purchase", "timestamp": 1_746_000_000_000} for item in BOUGHT]
    shop.ask("POST", "/v1/events", json={"events": [{**one, "event_id": f"map-{one['item_id']}"} for one in events]})
    tab.open("/?user=bob#map")
    tab.page.wait_for(IS_OPEN)
    tab.page.evaluate(f"{SHADOW}.querySelectorAll('.kind').forEach((row) => row.click())")
    found = window_places(tab.page, drawn[0].places_M2).tolist()
    return {item: (x, y) for item, (x, y) in zip(drawn[1], found, strict=True)}


def marked(tab: Tab, places: dict[str, tuple[float, float]]) -> tuple[set[str], set[str]]:
    """The items with a ring, and those with a dot."""
    marks = tab.page.evaluate(f"({MARKS})({list(map(list, places.values()))})")
    ringed = {item for item, (is_ringed, _) in zip(places, marks, strict=True) if is_ringed}
    return ringed, {item for item, (_, is_dotted) in zip(places, marks, strict=True) if is_dotted}


def test_what_comes_next_is_ringed_and_what_was_has_a_dot(tab: Tab, places: dict[str, tuple[float, float]]) -> None:
    until(lambda: marked(tab, places) == (set(tab.listed), set(BOUGHT)), 10)
    before = tab.listed
    tab.page.evaluate("location.hash = '#people'")
    bought = before[0]
    tab.click("#ranked > li:first-child [data-add=purchase]")
    assert tab.listed != before
    tab.page.evaluate("location.hash = '#map'")
    until(lambda: marked(tab, places) == (set(tab.listed), {*BOUGHT, bought}), 10)


def test_a_click_on_a_point_shows_the_item(tab: Tab, places: dict[str, tuple[float, float]]) -> None:
    tab.page.evaluate(f"{SHADOW}.querySelector('.legend .title button').click()")
    x, y = places["item-123"]
    for kind in ("mousePressed", "mouseReleased"):
        tab.page.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    tab.page.wait_for("document.querySelector('dialog .features dd')")
    assert "item-123" in tab.text("dialog .features")


def test_the_points_follow_the_colours_of_the_page(tab: Tab) -> None:
    tab.open("/#map")
    tab.page.wait_for(IS_OPEN)
    canvas = f"{SHADOW}.querySelector('canvas')"
    pixels = f"{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height).data.join()"
    tab.page.wait_for(f"/[^0,]/.test({pixels})")
    tab.page.evaluate(f"window.before = {pixels}, 0")
    tab.click("#theme")
    tab.page.wait_for(f"{pixels} !== before")
    tab.page.evaluate("localStorage.clear()")


def test_a_kind_has_the_same_colour_on_the_map_and_in_the_list(tab: Tab) -> None:
    tab.open("/#map")
    tab.page.wait_for(IS_OPEN)
    kinds = tab.page.evaluate(
        f"[...{SHADOW}.querySelectorAll('.kind')].map((e) => getComputedStyle(e.querySelector('i')).backgroundColor)"
    )
    tab.page.evaluate("location.hash = '#people'")
    dots = tab.page.evaluate("[...document.querySelectorAll('#ranked .dot')].map((e) => getComputedStyle(e).backgroundColor)")
    assert set(dots) <= set(kinds)


def test_titles_and_rings_that_cannot_be_had_are_told_until_they_can(tab: Tab) -> None:
    tab.page.send("Network.setBlockedURLs", urls=["*/v1/map/points"])
    tab.open("/#map")
    tab.page.wait_for(f"{SHADOW} && !{FAULT}.hidden")
    assert "cannot be reached" in tab.page.evaluate(f"{FAULT}.textContent")
    tab.page.send("Network.setBlockedURLs", urls=[])
    tab.page.evaluate("location.hash = '#people'")
    tab.page.evaluate("location.hash = '#map'")
    tab.page.wait_for(f"{FAULT}.hidden")
    tab.page.complaints.clear()  # the requests themselves


def test_servers_that_disagree_about_the_release_are_told_and_not_asked_for_ever(tab: Tab) -> None:
    tab.page.send("Page.addScriptToEvaluateOnNewDocument", source=OF_ANOTHER_RELEASE)
    tab.open("/#map")
    tab.page.wait_for(f"{SHADOW} && !{FAULT}.hidden")
    assert "Reload the page" in tab.page.evaluate(f"{FAULT}.textContent")
    assert tab.page.evaluate("numMaps") == 2


def test_a_map_that_cannot_be_drawn_is_told(tab: Tab) -> None:
    tab.page.send("Network.setBlockedURLs", urls=["*/map-draw.js"])
    tab.open("/#map")
    tab.page.wait_for("/cannot be read/.test(document.querySelector('#map').textContent)")
    tab.page.complaints.clear()  # the request itself


@pytest.fixture
def mapless(chromium: Browser, shops: Shops) -> Iterator[Tab]:
    with chromium.page() as page:
        yield Tab(page, shops.spare)


def test_a_release_without_a_map_says_how_to_make_one(mapless: Tab) -> None:
    mapless.open("/#map")
    mapless.page.wait_for(f"/has no map.*twotower embed --map/.test({SHADOW}?.textContent)")
    assert mapless.page.evaluate("document.querySelector('#map').offsetHeight") > 200
