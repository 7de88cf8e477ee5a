"""A page is one file, and text from data is text on it, whatever it holds."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from twotower.errors import EnvironmentProblem
from twotower.report.page import render, save

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
