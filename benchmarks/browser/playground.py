"""What a person meets at the playground, measured in a browser: the first paint, the weight, and the list after a click."""

import time
from random import Random

from benchmarks.browser.chromium import Browser, Page

LISTED = "document.querySelectorAll('#ranked > li[data-item]').length > 0"
QUIET = "document.documentElement.dataset.busy === 'no'"
EXPLAINED = "[...document.querySelectorAll('#ranked .why')].every((e) => e.textContent)"  # the last that a load asks for
STILL = f"{QUIET} && !document.getAnimations().length"  # nobody aims at a button that moves
LOADS = 5  # the slowest of so many first loads is reported
_ACTIONS = ("#ranked > li:nth-child({place}) [data-add=purchase]", "#ranked > li:nth-child({place}) [data-add=view]")


def first_paints_ms(browser: Browser, url: str) -> tuple[list[float], int]:
    """Milliseconds from the start of each load to its first paint, and the bytes of all that a first load receives.

    Each load is without a cache, and ends when the list and its reasons are there.
    """
    paints, sizes = [], []
    for _ in range(LOADS):
        with browser.page() as page:
            page.send("Network.setCacheDisabled", cacheDisabled=True)
            page.open(url)
            page.wait_for(f"{LISTED} && {EXPLAINED}")
            paints.append(float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")))
            sizes.append(sum(page.sizes.values()))
    return paints, max(sizes)


def refreshes_ms(page: Page, url: str, num_clicks: int) -> list[float]:
    """Milliseconds from each click on an item to the paint of the list that follows it.

    A click comes up to 1.2 s after the list before, so that it also meets a server that still works on the reasons for that list.
    """
    pauses_s = Random(0)
    page.open(url)
    page.wait_for(LISTED)
    taken = []
    for click in range(num_clicks):
        if click % 20 == 0:  # a history that grows without end would be nobody's
            page.click(f"#faces button:nth-child({2 + click // 20 % 5})")
        page.wait_for(STILL)
        time.sleep(pauses_s.uniform(0.0, 1.2))
        page.wait_for(STILL)
        before = page.evaluate("performance.getEntriesByName('refresh').length")
        page.click(_ACTIONS[click % 2].format(place=1 + click % 5))
        page.wait_for(f"performance.getEntriesByName('refresh').length > {before}")
        taken.append(float(page.evaluate("performance.getEntriesByName('refresh').at(-1).duration")))
    return taken


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
