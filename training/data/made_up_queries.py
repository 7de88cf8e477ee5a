"""Searches where no log has any: what somebody might type who looks for an item, made from the item's own words.

A query is some words in a row of the item's title, or one of its categories that reads like words (a product type, a brand), or
both. It says nothing that the catalogue does not say, so a model that learns from such queries understands no other words. A log
of real searches does better.

N: items, Q: queries of a batch
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from twotower.data.events import MAX_QUERY
from twotower.data.features import as_values
from twotower.data.schema import ItemColumns
from twotower.data.words import tokens

MAX_WORDS = 4  # of a title in one query
TITLE_SHARE, CATEGORY_SHARE = 0.4, 0.4  # the rest are a category with words of the title
AGO_MS = (2_000.0, 600_000.0)  # a search is so long before what is found; drawn evenly on a logarithmic scale
_READS_LIKE_WORDS = re.compile(r"[^\W\d_]{3}")


class ItemWords:
    """The title and the categories of every item, as text. Queries are drawn from them."""

    def __init__(self, tables: Sequence[pa.Table], columns: ItemColumns, title: str) -> None:
        names = [title, *(name for name, kind in columns.features.items() if kind == "categorical")]
        self._columns = [pa.concat_arrays([_texts(table, name) for table in tables]) for name in names]

    def query(self, rng: np.random.Generator, row: int) -> str | None:
        """What somebody might type who looks for this item; None for an item without words."""
        title, *categories = [column[row].as_py() or "" for column in self._columns]
        words, named = title.split(), [text for text in categories if _READS_LIKE_WORDS.search(text)]
        kind, length, start, place = rng.random(4)
        longest = 2 if kind >= TITLE_SHARE + CATEGORY_SHARE else MAX_WORDS
        num = 1 + int(length * min(longest, len(words)))
        first = int(start * (len(words) - num + 1))
        some, category = " ".join(words[first : first + num]), named[int(place * len(named))] if named else ""
        if kind < TITLE_SHARE:
            text = some or category
        elif kind < TITLE_SHARE + CATEGORY_SHARE:
            text = category or some
        else:
            text = f"{category} {some}".strip()
        text = text.lower()[:MAX_QUERY]
        return text if tokens(text) else None


def ago_ms(rng: np.random.Generator, gap_ms: int) -> int:
    """How long before an event the search for it was, less than half of the gap to the event before."""
    low, high = np.log(AGO_MS)
    return int(min(np.exp(rng.uniform(low, high)), gap_ms / 2))


def _texts(table: pa.Table, name: str) -> pa.Array:
    return as_values(table.column(name).combine_chunks(), name)
