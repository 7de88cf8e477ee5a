"""How long a map takes to be drawn again while somebody zooms: the script's time in each frame, in a browser without a GPU."""

from benchmarks.browser.chromium import Page

NUM_TURNS = 60  # of the wheel
_TIMED = """window.taken = [];
const ask = requestAnimationFrame;
window.requestAnimationFrame = (act) => ask((time) => {
  const began = performance.now();
  act(time);
  taken.push(performance.now() - began);
});"""
_OPEN = "document.querySelector('#map').shadowRoot?.querySelector('.zoom').hidden === false"


def redraws_ms(page: Page, url: str) -> tuple[list[float], list[float]]:
    """Milliseconds of redraws of the page of a map: with all of it in view, and some 35 times larger."""
    page.send("Page.addScriptToEvaluateOnNewDocument", source=_TIMED)
    page.show_as(1280, 900)
    page.open(url)
    page.wait_for(f"{_OPEN} && taken.length")
    whole = _turns_ms(page)
    _turn(page, -2000)
    return whole, _turns_ms(page)


def _turns_ms(page: Page) -> list[float]:
    page.evaluate("taken.length = 0")
    for turn in range(NUM_TURNS):
        _turn(page, -40 if turn % 2 else 40)
    return list(page.evaluate("taken"))


def _turn(page: Page, delta: int) -> None:
    """Turn the wheel over the middle of the map, and wait for the frame that follows."""
    before = page.evaluate("taken.length")
    x, y = page.place("#map")
    page.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)
    page.wait_for(f"taken.length > {before}")
