"""A page is one file, and text from data is text on it, whatever it holds."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from jinja2 import UndefinedError

from twotower.errors import EnvironmentProblem
from twotower.report.page import STYLE, render, save

EVIL = '<script>alert("x")</script>'


def template(directory: Path, content: str) -> Path:
    path = directory / "try.html"
    path.write_text(
        '{% extends "frame.html" %}{% import "parts.html" as parts %}{% block content %}' + content + "{% endblock %}"
    )
    return path


def test_text_is_escaped_wherever_it_enters(tmp_path: Path) -> None:
    shown = render(template(tmp_path, '<p title="{{ text }}">{{ text }}</p>'), EVIL, {"text": EVIL})
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 4


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(tmp_path: Path) -> None:
    shown = render(template(tmp_path, "hello"), "a run", {})
    assert re.findall(r"(?:src|href)\s*=|@import|url\(|<link|<script", shown) == []
    assert shown.startswith("<!doctype html>")
    assert "default-src 'none'" in shown


def test_a_part_that_code_forgot_is_an_error_and_no_gap(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="forgotten"):
        render(template(tmp_path, "{{ forgotten }}"), "a run", {})


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    save(
        tmp_path / "page.html",
        render(template(tmp_path, "{{ name }}"), "a run", {"name": b"caf\xe9".decode("utf-8", "surrogateescape")}),
    )
    assert "caf?" in (tmp_path / "page.html").read_text()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*: Is a directory. Choose another place"):
        save(tmp_path, "")


COLOURS = dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", STYLE.read_text().partition("@media")[0]))
DARK = dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", STYLE.read_text().partition("@media")[2].partition("* {")[0]))
# Machado, Oliveira and Fernandes 2009, of full severity, on linear RGB.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def linear(colour: str) -> npt.NDArray[np.float64]:
    """A colour in linear RGB."""
    rgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("colours", [COLOURS, DARK], ids=["light", "dark"])
def test_every_word_and_line_stands_out_from_the_paper(colours: dict[str, str]) -> None:
    """By WCAG: 4.5 for words, 3 for lines."""
    least = {"--ink": 4.5, "--faint": 4.5, "--better": 4.5, "--worse": 4.5, "--undecided": 4.5}
    for name in ("--ink", "--faint", "--better", "--worse", "--undecided", "--first", "--second", "--third"):
        dark, bright = sorted([luminance(colours[name]), luminance(colours["--paper"])])
        assert (bright + 0.05) / (dark + 0.05) >= least.get(name, 3.0), name


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("colours", [COLOURS, DARK], ids=["light", "dark"])
def test_series_and_verdicts_differ_for_colour_blind_readers(colours: dict[str, str], kind: str) -> None:
    for one, other in (("--first", "--second"), ("--first", "--third"), ("--second", "--third"), ("--better", "--worse")):
        seen = [np.clip(np.array(BLIND[kind]) @ linear(colours[name]), 0, 1) ** (1 / 2.2) for name in (one, other)]
        assert np.abs(seen[0] - seen[1]).max() > 0.12, (one, other)
