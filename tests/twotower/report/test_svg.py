"""Drawings as elements of a page, and as files of their own."""

from xml.etree import ElementTree

from matplotlib.axes import Axes

from twotower.report.svg import FIRST, drawing, standalone


def draw(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=FIRST)
    axes.set_xlabel("steps")


def test_a_drawing_takes_its_colours_from_the_page() -> None:
    assert "var(--first)" in drawing("line", draw)
    assert FIRST not in drawing("line", draw)


def test_a_drawing_on_its_own_has_the_colours_of_a_light_page_on_white() -> None:
    alone = standalone(drawing("line", draw))
    assert "var(" not in alone
    assert "#1f5fbf" in alone
    assert '<rect width="100%" height="100%" fill="#ffffff"/>' in alone
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"
