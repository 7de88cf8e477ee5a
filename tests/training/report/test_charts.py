"""Charts fit the page they stand on."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from training.report.charts import MOST_POINTS, Curve, Level, chart, running_mean, thinned
from twotower.report.svg import VARIABLES


def drawn(name: str = "loss") -> str:
    x = list(range(100))
    curve = Curve(x, [1e-4 * (1 + np.sin(i)) for i in x], noisy=True)
    levels = [Level(2e-4, "popularity"), Level(2e-4, "personal frequency")]
    return chart(name, "Loss", "Lower is better.", "nats", [curve], levels, boundaries=[50]).drawing


def test_a_chart_is_an_svg_element_as_wide_as_its_column() -> None:
    root = ElementTree.fromstring(drawn())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)


def test_every_colour_is_one_of_the_page() -> None:
    shown = drawn()
    assert re.findall(r":\s*#[0-9a-fA-F]{6}", shown) == []
    assert set(re.findall(r"var\((--\w+)\)", shown)) <= set(VARIABLES.values())


def test_the_style_of_the_page_stays_its_own() -> None:
    assert "<style" not in drawn()


def test_two_charts_on_a_page_share_no_id() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', drawn(name))) for name in ("loss", "norm")]
    assert not ids[0] & ids[1]
    shown = drawn()
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', shown)) <= ids[0]


def test_small_values_keep_their_digits_on_the_axis() -> None:
    assert "0.00020" in re.findall(r">([^<>]*)</text>", drawn())


def test_the_running_mean_is_shorter_at_the_ends() -> None:
    assert running_mean(np.array([0.0, 3.0, 6.0, 9.0])).tolist() == [1.5, 3.0, 6.0, 7.5]


def test_a_chart_of_two_thousand_points_is_small() -> None:
    noise = np.random.default_rng(0).normal(size=2000).tolist()
    assert len(chart("loss", "Loss", "", "nats", [Curve(list(range(2000)), noise, noisy=True)]).drawing) < 25_000


def test_a_curve_of_many_points_keeps_its_peaks() -> None:
    y = np.zeros(5000)
    y[1234], y[4321] = 7.0, -3.0
    x, kept = thinned(np.arange(5000.0), y)
    assert len(x) <= MOST_POINTS
    assert (kept.max(), kept.min()) == (7.0, -3.0)


def test_axes_say_what_they_show() -> None:
    texts = re.findall(r">([^<>]*)</text>", drawn())
    assert {"step", "nats"} <= set(texts)
