from loadtests.gate import judge
from loadtests.outcomes import Fate, Outcomes
from loadtests.page import load_page
from loadtests.profiles import PROFILES
from loadtests.traffic import RECOMMEND


def test_the_page_shows_what_was_asked_and_every_figure_with_its_limit() -> None:
    outcomes = Outcomes(generator="poisson", profile="spike", capacity_per_s=50.0, seconds=3.0)
    for number in range(30):
        outcomes.add(number / 10, 10.0 + number, RECOMMEND, Fate.REFUSED if number == 20 else Fate.GOOD)
    page = load_page(PROFILES["spike"], [outcomes], judge([outcomes], {"p99_ms": 30.0}))
    assert (
        "1 s at 40 %, then 0.5 s at 150 %, then 1.5 s at 40 % of the capacity".replace(" s at", "\u00a0s at").replace(
            " %", "\u00a0%"
        )
        in page
    )
    assert "50.0 requests per second" in page
    assert '<span class="worse">39\u00a0ms<small>missed</small></span>' in page
    assert "at most 30\u00a0ms" in page
    assert page.count("<svg") == 4
