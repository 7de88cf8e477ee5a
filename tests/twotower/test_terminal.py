"""Text reaches the terminal as it is, whatever it looks like."""

import io

import pytest
from rich.progress import Progress

from twotower.terminal import TaskText, TextTable, console, styled, visible

STRANGE = ["sku[/red]", "weight [kg]", "[link=x]", ":cat:", "[/]", "a]b[c", "[bold]no[/bold]", "\\[x]"]


@pytest.mark.parametrize("text", STRANGE)
def test_what_looks_like_markup_is_shown_as_it_is(text: str) -> None:
    page = console(file=io.StringIO(), width=80)
    table = TextTable(text, title=f"title {text}")
    table.add_row(text)
    table.add_row(styled(f"styled {text}", "red"))
    page.print(table)
    page.print(f"line {text}")
    shown = page.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count(text) == 5
    assert f"styled {text}" in shown


@pytest.mark.parametrize("text", STRANGE)
def test_a_bar_shows_its_title_and_note_as_they_are(text: str) -> None:
    page = console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Progress(TaskText(width=4), TaskText("note", style="dim"), console=page) as progress:
        progress.add_task(text, note=f"note {text}")
    shown = page.file.getvalue()  # type: ignore[attr-defined]
    assert f"{text:<4} note {text}" in shown


def test_what_a_terminal_would_obey_is_written_as_an_escape() -> None:
    assert visible("a\x1b[31mb\x07\u202ec") == "a\\x1b[31mb\\x07\\u202ec"
    assert visible("half \ud83d") == "half \\ud83d"
    assert visible("two\nlines\tof 牛奶 and سـ\u200cلام") == "two\nlines\tof 牛奶 and سـ\u200cلام"
