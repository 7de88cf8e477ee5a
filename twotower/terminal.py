"""Text for people, on the terminal: it is shown as it is. The only module that hands text to rich.

An item id such as `sku[/red]` or a unit such as `[kg]` looks like markup to rich, and `:cat:` like an emoji. A value of the data
may also hold control characters, which a terminal would obey. So markup is off, colours are given as styles, and control
characters are written as escapes.
"""

import unicodedata
from typing import Any

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

Cell = str | Text
_DIRECTION_MARKS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def console(**options: Any) -> Console:  # the options of rich's Console
    """A console that prints strings as they are."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def visible(text: str) -> str:
    """The text with what a terminal would obey, or could not write, as escapes: control characters, halves of characters, and
    marks that reverse the direction of writing. Line ends and tabs stay.
    """
    return text if text.isprintable() else "".join(ascii(c)[1:-1] if _is_obeyed(c) else c for c in text)


def styled(text: str, style: str = "") -> Text:
    """The text in a style of rich, such as `bold` or `red`."""
    return Text(visible(text), style=style)


class TextTable(Table):
    """A table of rich whose title, headings and cells are shown as they are."""

    def __init__(self, *headings: str, title: str | None = None, **options: Any) -> None:
        super().__init__(*headings, title=None if title is None else styled(title, "table.title"), **options)

    def add_column(self, header: Cell = "", *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Add a column, its heading as text."""
        super().add_column(_text(header), *args, **options)

    def add_row(self, *cells: Cell, **options: Any) -> None:  # type: ignore[override]
        """Add a row, its cells as text."""
        super().add_row(*map(_text, cells), **options)


class TaskText(ProgressColumn):
    """A column of a progress bar: the task's description, or one of its fields, as text."""

    def __init__(self, field: str = "", width: int = 0, style: str = "") -> None:
        super().__init__()
        self._field, self._width, self._style = field, width, style

    def render(self, task: Task) -> Text:
        """The text for the current state of the task."""
        return styled(f"{task.fields[self._field] if self._field else task.description:<{self._width}}", self._style)


def _is_obeyed(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTION_MARKS


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else styled(cell)
