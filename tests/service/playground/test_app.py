"""The playground as people use it: in a real Chromium, with clicks and keys, on a real server."""

import signal
from collections.abc import Iterator

import pytest

from benchmarks.browser.chromium import ALT, Browser
from benchmarks.browser.playground import EXPLAINED
from tests.service.playground.conftest import Shop, Shops, Tab

PANELS = ("people", "map", "planner", "server")


def event(user: str, item: str, at: int) -> dict[str, object]:
    return {"user_id": user, "item_id": item, "event_type": "purchase", "timestamp": 1_746_000_000_000 + at}


@pytest.fixture(scope="module")
def stored(shop: Shop) -> list[str]:
    """The items of Ann's stored history, oldest first."""
    items = ["item-3", "item-4", "item-5"]
    body = {"events": [event("ann", item, at) for at, item in enumerate(items)]}
    assert shop.ask("POST", "/v1/events", json=body).json()["accepted"] == 3
    return items


def test_it_loads_with_a_person_a_history_and_a_list_with_reasons(tab: Tab) -> None:
    tab.open()
    assert len(tab.listed) == 12
    assert len(tab.history) >= 5
    assert tab.page.evaluate("document.querySelector('.face[aria-pressed=true] .name').textContent") == "Ada"
    tab.page.wait_for(EXPLAINED)
    tab.page.wait_for("[...document.querySelectorAll('#ranked .chance')].every((e) => /%|1 in/.test(e.textContent))")
    assert "ms" in tab.text("#facts")


def test_an_item_that_is_bought_joins_the_history_and_the_list_follows(tab: Tab) -> None:
    tab.open()
    before, history = tab.listed, tab.history
    name = tab.text("#ranked > li:nth-child(3) .name")
    tab.click("#ranked > li:nth-child(3) [data-add=purchase]")
    assert tab.history == [name, *history]
    assert tab.listed != before
    new = [item for item in tab.listed if item not in before]
    marked = tab.page.evaluate("[...document.querySelectorAll('#ranked > li')].map((e) => e.querySelector('.badge').textContent)")
    for place, (item, mark) in enumerate(zip(tab.listed, marked, strict=True)):
        moved = before.index(item) - place if item in before else None
        assert mark == ("new" if item in new else "" if not moved else f"+{moved}" if moved > 0 else f"−{-moved}")
    assert f"{len(new)} new" in tab.text("#said")


def test_a_view_is_another_event_than_a_purchase(tab: Tab) -> None:
    tab.open()
    tab.click("#ranked > li:nth-child(1) [data-add=view]")
    assert tab.text("#timeline .event:nth-child(2) .sub").startswith("Viewed")


def test_the_list_is_what_the_interface_answers_for_a_stored_user_and_nothing_is_stored(tab: Tab, stored: list[str]) -> None:
    tab.open("/?user=ann")
    assert len(tab.history) == 3
    last = 1_746_000_000_002 + 86_400_000
    asked = {"user_id": "ann", "num_results": 12, "timestamp": last}
    assert tab.listed == [item["item_id"] for item in tab.shop.ask("POST", "/v1/recommend", json=asked).json()["items"]]
    tab.click("#ranked > li:nth-child(2) [data-add=purchase]")
    assert len(tab.history) == 4
    assert tab.shop.ask("GET", "/v1/users/ann").json()["num_events"] == len(stored)


def test_events_are_moved_and_removed_with_the_keyboard_and_that_is_undone(tab: Tab, stored: list[str]) -> None:
    tab.open("/?user=ann")
    latest, middle, oldest = tab.history
    tab.page.evaluate("document.querySelector('#timeline .event').focus()")
    tab.press("ArrowDown", ALT)
    assert tab.history == [middle, latest, oldest]
    assert "edited" in tab.text("#past-facts")
    tab.press("ArrowDown")
    tab.press("Delete")
    assert tab.history == [middle, latest]
    assert tab.page.evaluate("document.activeElement.classList.contains('event')"), "the focus stays in the history"
    tab.click("#past-bar button")
    tab.click("#past-bar button")
    assert tab.history == [latest, middle, oldest]
    assert "stored" in tab.text("#past-facts")


def test_an_event_is_dragged_to_another_place(tab: Tab, stored: list[str]) -> None:
    tab.open("/?user=ann")
    latest, middle, oldest = tab.history
    tab.page.drag("#timeline .event .grip", "#timeline .event:last-child")
    tab.settle()
    assert tab.history == [middle, oldest, latest]


def test_an_item_is_found_by_words_and_added_with_the_keyboard_alone(tab: Tab) -> None:
    tab.open()
    history = tab.history
    tab.page.evaluate("document.querySelector('#find').focus()")
    tab.page.type("aisle 1")
    tab.page.wait_for("document.querySelectorAll('#found [role=option]').length === 8")
    second = tab.page.evaluate("document.querySelectorAll('#found [role=option] .name')[1].textContent")
    tab.page.press("ArrowDown")
    tab.press("Enter")
    assert tab.history == [second, *history]
    tab.page.type("no such words")
    tab.page.wait_for("document.querySelector('#found').textContent.startsWith('No item has')")


def test_an_item_shows_its_features_and_what_is_alike(tab: Tab) -> None:
    tab.open()
    name = tab.text("#ranked > li:first-child .name")
    tab.page.click("#ranked > li:first-child .name")
    tab.page.wait_for("document.querySelectorAll('dialog .alike [data-add=view]').length === 8")
    assert tab.text("dialog h2") == name
    assert tab.listed[0] in tab.text("dialog .features")
    tab.page.press("Escape")
    tab.page.wait_for("!document.querySelector('dialog')")


def test_events_are_stored_only_when_a_person_says_so(tab: Tab) -> None:
    tab.open()
    tab.click("#faces button:first-child")
    assert "Nothing yet" in tab.text("#timeline")
    tab.click("#ranked > li:first-child [data-add=purchase]")
    tab.page.click("#store")
    tab.page.wait_for("document.querySelector('#store-as')")
    tab.page.evaluate("document.querySelector('#store-as').value = 'zoe'")
    assert tab.shop.ask("GET", "/v1/users/zoe").json()["num_events"] == 0
    tab.page.click("dialog .main")
    tab.page.wait_for("document.querySelector('.face[aria-pressed=true] .name').textContent === 'zoe'")
    assert tab.shop.ask("GET", "/v1/users/zoe").json()["num_events"] == 1


def test_a_search_joins_the_history_as_an_event_with_its_text(tab: Tab) -> None:
    tab.open()
    history = tab.history
    tab.page.wait_for("!document.querySelector('#shop-search').hidden")
    tab.page.evaluate("document.querySelector('#search-text').focus()")
    tab.page.type("green tea")
    tab.press("Enter")
    assert tab.history == ["“green tea”", *history]
    assert len(tab.listed) == 12
    tab.page.type("?!")
    tab.press("Enter")
    assert len(tab.history) == len(history) + 1, "a search without a letter or digit is none"


def test_the_search_box_is_there_at_once(tab: Tab) -> None:
    tab.open()
    assert tab.page.evaluate("document.querySelector('#shop-search').offsetHeight") > 0
    tab.page.wait_for(EXPLAINED)
    assert not [url for url in tab.page.requests if "openapi" in url], "the description of all routes is for its reader"


def test_options_change_the_list(tab: Tab) -> None:
    tab.open()
    tab.click(".options summary")
    tab.set("#only", "aisle 2", "change")
    tab.settle()
    assert all("aisle 2" in text for text in tab.texts("#ranked .text .sub"))


def test_what_a_person_had_is_left_out_when_that_is_asked_for(tab: Tab) -> None:
    had = tab.open("/?user=ann").listed[:6]
    assert tab.shop.ask("POST", "/v1/events", json={"events": [event("fay", item, 9) for item in had]}).json()["accepted"] == 6
    tab.open("/?user=fay")
    assert set(had) & set(tab.listed), "otherwise there is nothing to leave out"
    tab.click(".options summary")
    tab.click("#fresh")
    assert not set(had) & set(tab.listed)
    assert len(tab.listed) == 12


def test_what_keeps_the_reasons_away_is_told(tab: Tab) -> None:
    tab.page.send("Network.setBlockedURLs", urls=["*/v1/score"])
    tab.open()
    tab.page.wait_for("document.querySelector('#when .warn')")
    assert "cannot be reached" in tab.text("#when .warn")
    assert all(tab.texts("#ranked .why")), "what came is shown"
    tab.page.complaints.clear()  # the request itself


def test_an_answer_about_a_user_that_nobody_waits_for_any_more_is_dropped(tab: Tab) -> None:
    tab.page.send("Page.addScriptToEvaluateOnNewDocument", source=SLOW_USERS)
    tab.open()
    tab.set("#user", "nobody")
    tab.page.evaluate("document.querySelector('#lookup').requestSubmit()")
    tab.page.wait_for("window.letGo")
    tab.click("#faces button:first-child")
    tab.page.evaluate("letGo()")
    tab.page.wait_for("window.isTold")
    assert tab.page.evaluate("document.querySelector('#who-hint').hidden")


SLOW_USERS = """const ask = fetch;
window.fetch = async (path, init) => {
  if (!String(path).includes('v1/users/')) return ask(path, init);
  await new Promise((letGo) => (window.letGo = letGo));
  const answer = await ask(path, init);
  setTimeout(() => (window.isTold = true), 100);
  return answer;
};"""


def test_a_user_without_a_history_is_told_in_a_sentence(tab: Tab) -> None:
    tab.open()
    tab.set("#user", "nobody")
    tab.page.evaluate("document.querySelector('#lookup').requestSubmit()")
    tab.page.wait_for("!document.querySelector('#who-hint').hidden")
    assert "The store has no events of “nobody”" in tab.text("#who-hint")


def test_the_planner_answers_the_slider(tab: Tab) -> None:
    tab.open("/#planner")
    tab.page.wait_for("document.querySelector('#plan .chart')")
    first = tab.texts("#plan .tile .value")
    tab.page.evaluate("document.querySelector('#plan-budget').focus()")
    for _ in range(5):
        tab.page.press("ArrowRight")
    tab.page.wait_for(f"document.querySelector('#plan .tile .value').textContent !== {first[0]!r}")
    assert tab.text("#plan-flops") == "3.16×10¹⁵ FLOPs"
    tab.set("#plan-memory", "much")
    tab.page.wait_for("document.querySelector('#plan .sentence')")
    tab.page.complaints.clear()  # the refusal itself, 422
    assert "cannot use this request" in tab.text("#plan .sentence")


def test_the_server_tells_its_health_load_and_releases(tab: Tab) -> None:
    tab.open("/#server")
    tab.page.wait_for("document.querySelector('#server-health .good') && document.querySelector('#server-routes table')")
    assert "POST /v1/recommend" in tab.text("#server-routes")
    assert "serving" in tab.text("#server-releases")
    assert "Memory of the process" in tab.text("#server-load")


@pytest.mark.parametrize("panel", PANELS)
def test_nothing_has_to_be_scrolled_sideways_on_a_phone(tab: Tab, panel: str) -> None:
    tab.page.show_as(375, 720)
    tab.open(f"/#{panel}")
    tab.page.wait_for(f"document.querySelector('#panel-{panel}').offsetHeight > 200")
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 375


def test_it_is_dark_where_that_is_preferred_and_the_button_changes_it_for_good(tab: Tab) -> None:
    lightness = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    tab.page.show_as(1280, 900, scheme="dark")
    tab.open()
    assert tab.page.evaluate(lightness) < 60
    tab.click("#theme")
    assert tab.page.evaluate(lightness) > 200
    tab.open()
    assert tab.page.evaluate(lightness) > 200
    tab.page.evaluate("localStorage.clear()")


def test_text_stands_out_from_what_it_stands_on(tab: Tab) -> None:
    for scheme in ("light", "dark"):
        tab.page.show_as(1280, 900, scheme=scheme)
        tab.open()
        assert tab.page.evaluate(CONTRASTS) == []


CONTRASTS = """(() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour, under) => { paint.fillStyle = under; paint.fillRect(0, 0, 1, 1); paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const back = (e) => { const stack = [];
    for (let n = e; n; n = n.parentElement) stack.unshift(getComputedStyle(n).backgroundColor);
    return stack.reduce((under, colour) => `rgb(${rgb(colour, under).join(',')})`, 'white'); };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(e);
    if (!own || !e.offsetParent || style.visibility === 'hidden' || e.closest('.unseen, .skip, option, noscript')) continue;
    const under = back(e), [a, b] = [light(rgb(style.color, under)), light(rgb(under, under))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.push(`${e.className || e.tagName}: ${((a + .05) / (b + .05)).toFixed(2)}`);
  }
  return [...new Set(found)];
})()"""


def test_every_control_has_a_name(tab: Tab) -> None:
    tab.open()
    nameless = tab.page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((e) => e.offsetParent && !(e.textContent.trim() || "
        "e.getAttribute('aria-label') || (e.labels && e.labels.length))).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_a_catalogue_cannot_put_markup_into_the_page(shops: Shops, chromium: Browser) -> None:
    shop, title = shops.spare, "<img src=x onerror=alert(1)><b>Bold</b>"
    assert shop.ask("PUT", "/v1/items", json={"items": [{"item_id": "bad", "title": title}]}).json()["accepted"] == 1
    assert shop.ask("POST", "/v1/events", json={"events": [event("eve", "bad", 0)]}).json()["accepted"] == 1
    with chromium.page() as page:
        tab = Tab(page, shop).open("/?user=eve")
        assert tab.history == [title]
        assert not page.evaluate("document.querySelector('main img, main b')")
        assert not page.complaints


@pytest.fixture
def locked(chromium: Browser, shops: Shops) -> Iterator[Tab]:
    with chromium.page() as page:
        page.show_as(1280, 900, motion=False)
        yield Tab(page, shops.guarded)


def give_key(tab: Tab, key_id: str) -> None:
    tab.page.open(tab.shop.url)
    tab.page.wait_for("document.querySelector('#api-key')")
    tab.page.type(f"{key_id}.secret of {key_id}")
    tab.page.press("Enter")


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_tab(locked: Tab) -> None:
    give_key(locked, "all")
    locked.page.wait_for("document.querySelectorAll('#ranked > li[data-item]').length === 12")
    assert locked.page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    locked.open("/#map")
    assert len(locked.listed) == 12
    locked.page.wait_for("/has no map/.test(document.querySelector('#map').shadowRoot?.textContent)")


def test_a_key_that_is_given_again_doubles_nothing(locked: Tab) -> None:
    give_key(locked, "all")
    locked.page.wait_for("document.documentElement.dataset.ready === 'yes'")
    locked.page.click("#key")
    locked.page.press("Enter")
    locked.page.wait_for("!document.querySelector('dialog')")
    locked.settle()
    locked.page.requests.clear()
    locked.set("#user", "ann")
    locked.page.evaluate("document.querySelector('#lookup').requestSubmit()")
    locked.page.wait_for("!document.querySelector('#who-hint').hidden")
    assert len([url for url in locked.page.requests if url.endswith("/v1/users/ann")]) == 1


def test_a_wrong_key_is_told(locked: Tab) -> None:
    give_key(locked, "wrong")
    locked.page.wait_for("document.querySelector('dialog')?.textContent.includes('does not take this API key')")


def test_what_a_key_does_not_open_is_told_where_it_would_be(locked: Tab) -> None:
    give_key(locked, "some")
    locked.page.wait_for("document.querySelectorAll('#ranked > li[data-item]').length === 12")
    locked.set("#user", "ann")
    locked.page.evaluate("document.querySelector('#lookup').requestSubmit()")
    locked.page.wait_for("!document.querySelector('#who-hint').hidden")
    assert "scope `admin`" in locked.text("#who-hint")
    locked.settle()
    assert len(locked.listed) == 12
    locked.page.evaluate("location.hash = '#server'")
    locked.page.wait_for("document.querySelector('#server-load .sentence')")
    locked.page.wait_for("document.querySelector('#server-releases .sentence')")
    assert "metrics" in locked.text("#server-load")
    assert "admin" in locked.text("#server-releases")


def test_a_quota_that_is_used_up_is_told_with_the_time_to_wait(locked: Tab) -> None:
    give_key(locked, "few")
    locked.page.wait_for("/used up its requests.*Try again in \\d+ seconds/.test(document.body.textContent)")


def test_a_server_that_is_gone_is_told_and_the_page_stays(shops: Shops, chromium: Browser) -> None:
    with chromium.page() as page:
        tab = Tab(page, shops.spare).open()
        shops.spare.process.send_signal(signal.SIGTERM)
        assert shops.spare.process.wait(timeout=20) == 0
        tab.page.click("#ranked > li:first-child [data-add=purchase]")
        tab.page.wait_for("document.querySelector('#ranked .sentence')")
        assert "cannot be reached" in tab.text("#ranked")
        assert tab.history, "what the person did is still there"


def test_a_part_of_the_page_that_cannot_be_read_is_told(chromium: Browser, shop: Shop) -> None:
    with chromium.page() as page:
        page.send("Network.setBlockedURLs", urls=["*/person.js"])
        page.open(shop.url)
        page.wait_for("!document.querySelector('#notice').hidden")
        assert "Reload the page" in page.evaluate("document.querySelector('#notice').textContent")


def test_the_reader_of_the_interface_works_without_a_network(chromium: Browser, shop: Shop) -> None:
    with chromium.page() as page:
        page.open(f"{shop.url}/docs")
        page.wait_for("document.querySelectorAll('.opblock').length > 15")
        assert all(url.startswith((shop.url, "data:", "blob:")) for url in page.requests)
        assert not page.complaints
