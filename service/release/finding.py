"""Finding items by words, and what a catalogue holds. No model is asked.

N: items of the release, added ones included
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.release.loaded import LoadedRelease
from twotower.data.features import Floats, Ints, as_values
from twotower.data.json_values import json_rows
from twotower.model.catalogue import ID_FIELD

MAX_WORDS = 8  # further words are not looked for
MAX_GROUPS = 64  # of a feature to group by: more are no overview
_SPOKEN = ("text", "categorical")  # kinds of features whose values are words
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FoundItems:
    """Rows of items, the best first, and how many match in all."""

    rows: Ints
    num_matching: int


class ItemFinder:
    """Finds items of one table of items. It keeps their words in lower case, some hundred bytes an item, and their popularity.

    It keeps nothing of the release itself, so that a release that is no longer served can go.
    """

    def __init__(self, release: LoadedRelease) -> None:
        kinds = release.towers.schema.items.features
        spoken = [name for name, kind in kinds.items() if kind in _SPOKEN and name in release.items.column_names]
        self.title = release.towers.schema.items.title
        self.features = features(release)
        self.group = group_feature(self.features)
        self._groups = None if self.group is None else _texts(release.items, self.group)
        named = [] if self.title is None or self.title not in release.items.column_names else [self.title]
        self._titles = _lowered(release.items, named)
        self._words = _lowered(release.items, spoken)
        self._popularity_N = popularity(release)

    def find(self, release: LoadedRelease, words: str, group: str | None, limit: int) -> FoundItems:
        """Rows of up to `limit` items that have all words, and are of the group if one is given.

        An item whose id is what was asked for comes first, then items with all words in their title, then the others; the most
        popular first.
        """
        asked = words.lower().split()[:MAX_WORDS]
        allowed_N = release.listed() if group is None else release.listed() & self._is_in(group)
        matching_N = allowed_N & _holding(self._words, asked)
        titled_N = matching_N & _holding(self._titles, asked)
        same = release.rows.get(words.strip(), -1)
        is_same = np.arange(len(matching_N)) == same
        matching_N |= allowed_N & is_same
        rows = np.flatnonzero(matching_N)
        order = np.lexsort((rows, -self._popularity_N[rows], ~titled_N[rows], ~is_same[rows]))[:limit]
        return FoundItems(rows[order], len(rows))

    def _is_in(self, group: str) -> Mask:
        if self._groups is None:
            return np.zeros(len(self._words), bool)
        return _mask(pc.equal(self._groups, group))

    def group_sizes(self, release: LoadedRelease) -> list[tuple[str, int]]:
        """The groups and how many items each has, the largest first."""
        if self._groups is None:
            return []
        counted = pc.value_counts(self._groups.filter(pa.array(release.listed()))).to_pylist()
        return sorted(((c["values"], c["counts"]) for c in counted if c["values"] is not None), key=lambda g: (-g[1], g[0]))


class Finders:
    """The finder of the items that are served, made when it is first asked for. Used by one thread at a time."""

    def __init__(self) -> None:
        self._of: weakref.ref[pa.Table] | None = None
        self._finder: ItemFinder | None = None

    def of(self, release: LoadedRelease) -> ItemFinder:
        """The finder of a release's items; the one before is given up. Items that are put make a new table of items."""
        if self._finder is None or self._of is None or self._of() is not release.items:
            self._finder, self._of = ItemFinder(release), weakref.ref(release.items)
        return self._finder


def group_feature(told: Sequence[tuple[str, str, int | None]]) -> str | None:
    """The categorical feature to group items by: the first in the order of the schema with 2 to 64 values; None without one."""
    return next((name for name, _, values in told if values is not None and 2 <= values <= MAX_GROUPS), None)


def features(release: LoadedRelease) -> list[tuple[str, str, int | None]]:
    """Name, kind and number of values (of a categorical feature) of each feature of the items."""
    kinds = release.towers.schema.items.features
    return [
        (name, kind, _num_values(release.items.column(name)) if kind == "categorical" else None)
        for name, kind in kinds.items()
        if name in release.items.column_names
    ]


def described(release: LoadedRelease, rows: Ints) -> list[tuple[str, dict[str, Any]]]:
    """Id and features of items."""
    found = json_rows(release.items.take(pa.array(rows)).drop_columns([ID_FIELD]))
    return [(release.item_ids[row], features) for row, features in zip(rows.tolist(), found, strict=True)]


def popularity(release: LoadedRelease) -> Floats:
    """The log of the recent events of each item [N], by the shortest half-life of the model; equal if it reads none."""
    width = release.info.vector_width
    first = release.towers.config.model.width
    parts = [release.vectors_NV] if release.added is None else [release.vectors_NV, release.added.vectors_AV]
    if first >= width:
        return np.zeros(len(release), np.float32)
    return np.concatenate([part[:, first].float().numpy() for part in parts])


def _num_values(column: pa.ChunkedArray) -> int:
    return int(pc.count_distinct(column).as_py())


def _texts(items: pa.Table, name: str) -> pa.Array:
    """A column of words as one array of texts."""
    column = items.column(name)
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    return as_values(plain, name).cast(pa.large_string())


def _lowered(items: pa.Table, names: list[str]) -> pa.Array:
    """The words of some columns of each item as one text in lower case."""
    if not names:
        return pa.array([""] * len(items), pa.large_string())
    # Not null_handling="skip", which leaves out rows that are null in all columns: findings/pyarrow-join-with-skip-drops-rows.sh.
    columns = [pc.fill_null(_texts(items, name), "") for name in names]
    return pc.utf8_lower(pc.binary_join_element_wise(*columns, pa.scalar("\n", pa.large_string())))


def _holding(texts: pa.Array, words: list[str]) -> Mask:
    """Which texts hold all words."""
    held = np.ones(len(texts), bool)
    for word in words:
        held &= _mask(pc.match_substring(texts, word))
    return held


def _mask(found: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return mask
