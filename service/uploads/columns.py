"""The columns of a catalogue as the client uploads it, and the features of a schema that hold the same.

N: items
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.release.loaded import LoadedRelease
from service.uploads.file_format import COLUMNS, problems_of
from twotower.data.json_values import json_rows
from twotower.data.schema import ItemColumns, ItemKind
from twotower.errors import DataError
from twotower.model.catalogue import ID_FIELD

_ARROW_TYPES: dict[ItemKind, pa.DataType] = {
    "text": pa.string(),
    "categorical": pa.string(),
    "list": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "time": pa.timestamp("ms", "UTC"),
    "vector": pa.list_(pa.float32()),
}
# Words in the names of features, the best first.
_BRAND = ("brand", "manufacturer", "maker", "vendor", "artist", "author")
_CATEGORY = ("department", "categor", "section", "aisle", "class", "genre", "type", "collection")
_KEYWORDS = ("keyword", "tag", "label")


@dataclass(frozen=True, slots=True)
class Roles:
    """The features of a schema that hold what columns of the client hold; None or empty where there is none."""

    name: str | None
    brand: str | None
    price: str | None
    categories: tuple[str, ...]  # from the widest to the narrowest, as the schema lists them
    keywords: str | None
    first_sale: str | None

    @property
    def by_column(self) -> dict[str, tuple[str, ...]]:
        """The features for each column of the client that has some."""
        named = {"name": self.name, "brand": self.brand, "price": self.price, "keywords": self.keywords}
        single = {column: (feature,) for column, feature in named.items() if feature}
        return single | ({"categories": self.categories} if self.categories else {})


def roles_of(columns: ItemColumns) -> Roles:
    """The roles of a schema's features, by their kinds and the words in their names."""
    features = columns.features
    texts = [name for name, kind in features.items() if kind == "text"]
    values = [name for name, kind in features.items() if kind == "categorical"]
    lists = [name for name, kind in features.items() if kind == "list"]
    numbers = [name for name, kind in features.items() if kind == "numeric"]
    brand = _named(values + texts, _BRAND)
    name = columns.title or _named(texts, ("title", "name")) or next((text for text in texts if text != brand), None)
    categories = tuple(n for n in features if n in (*values, *lists) and n != brand and _holds(n, _CATEGORY))
    keywords = _named([n for n in lists if n not in categories], _KEYWORDS)
    first_sale = next((n for n, kind in features.items() if kind == "time"), None)
    return Roles(name, brand, _named(numbers, ("price",)), categories, keywords, first_sale)


def items_of(raw: pa.Table, item_ids: pa.Array, columns: ItemColumns) -> pa.Table:
    """The item table of a schema for the rows of a catalogue. A feature that no column holds is missing.

    DataError when the schema has no feature for names, brands and categories.
    """
    roles = roles_of(columns)
    if roles.name is None and roles.brand is None and not roles.categories:
        raise DataError("the served model reads neither names nor brands nor categories, so it cannot tell these items apart")
    paths = category_paths(raw.column("categories"))
    made: dict[str, pa.Array] = {columns.item_id: item_ids}
    for feature, kind in columns.features.items():
        made[feature] = pa.nulls(len(raw), _ARROW_TYPES[kind])
    if roles.name:
        made[roles.name] = _names(raw, roles)
    if roles.brand:
        made[roles.brand] = _whole(raw.column("brand"))
    if roles.price:
        made[roles.price] = prices_of(raw.column("price"))
    for place, feature in enumerate(roles.categories):
        is_list = columns.features[feature] == "list"
        values = paths if is_list else [part_of(path, place, len(roles.categories)) for path in paths]
        made[feature] = pa.array(values, _ARROW_TYPES[columns.features[feature]])
    if roles.keywords:
        made[roles.keywords] = pa.array(_joined_lists(raw), pa.list_(pa.string()))
    if roles.first_sale:
        seconds = _whole(raw.column("timestamp"))
        made[roles.first_sale] = pc.multiply(seconds, 1000).cast(pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC"))
    for column in ("market", "currency"):
        if columns.features.get(column) == "categorical":
            made[column] = _whole(raw.column(column))
    return pa.table(made)


def part_of(path: list[str] | None, place: int, num_places: int) -> str | None:
    """The part of a category path for one of several features: the last feature gets the last part of a longer path."""
    if not path:
        return None
    if place == num_places - 1 and len(path) > num_places:
        return path[-1]
    return path[place] if place < len(path) else None


def _names(raw: pa.Table, roles: Roles) -> pa.Array:
    """Names, followed by the brand and the categories where the schema has no feature for these."""
    parts = [_whole(raw.column("name"))]
    parts += [] if roles.brand else [_whole(raw.column("brand"))]
    parts += [] if roles.categories else [_whole(raw.column("categories"))]
    return pc.binary_join_element_wise(*parts, " ", null_handling="skip")


def _joined_lists(raw: pa.Table) -> list[list[str] | None]:
    pairs = zip(raw.column("keywords").to_pylist(), raw.column("search_keywords").to_pylist(), strict=True)
    return [[word for word in (*(first or ()), *(second or ())) if word] or None for first, second in pairs]


def category_paths(column: pa.ChunkedArray) -> list[list[str] | None]:
    """The parts of each category path."""
    split = ([part.strip() for part in text.split(",")] if text else None for text in column.to_pylist())
    return [[part for part in parts if part] or None if parts else None for parts in split]


def prices_of(column: pa.ChunkedArray) -> pa.Array:
    """Prices as numbers; missing where a text has none."""
    return pa.array([price_of(text) for text in column.to_pylist()], pa.float64())


def price_of(text: str | None) -> float | None:
    """The number in a price such as `299.00`, `1,299.00` or `1 299,00 kr`; None if there is none."""
    found = re.search(r"\d[\d.,\s]*", text or "")
    if found is None:
        return None
    digits = re.sub(r"\s", "", found[0]).rstrip(".,")
    mark = max(digits.rfind("."), digits.rfind(","))
    whole, cents = (digits, "") if mark < 0 else (digits[:mark], digits[mark + 1 :])
    if len(cents) == 3 and digits[mark] == ",":  # thousands, and no decimal comma
        whole, cents = whole + cents, ""
    return float(f"{re.sub('[.,]', '', whole) or 0}.{cents or 0}")


def read_plain(table: pa.Table) -> pa.Table:
    """The columns of the client in plain types; DataError that names every one that is missing or of another type."""
    if problems := problems_of(table.schema):
        raise DataError(f"the file is no catalogue: {'; '.join(problems)}")
    made = {}
    for name, kind in COLUMNS.items():
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        made[name] = column.cast(kind)
    return pa.table(made)


def view_of_upload(release: LoadedRelease, raw: pa.Table) -> pa.Table:
    """The item table that filters see for an uploaded catalogue: the client's columns, then the other features."""
    mine = {name: raw.column(name) for name in COLUMNS}
    mine |= {"price": prices_of(raw.column("price")), "categories": pa.array(category_paths(raw.column("categories")), _LIST)}
    return _view(release.items, mine)


def view_of_served(release: LoadedRelease) -> pa.Table:
    """The item table that filters see for the served catalogue beside uploaded ones."""
    roles, items = roles_of(release.towers.schema.items), release.items
    mine: dict[str, Any] = {name: pa.nulls(len(items), kind) for name, kind in COLUMNS.items()}
    mine |= {"id": items.column(ID_FIELD), "price": pa.nulls(len(items), pa.float64()), "categories": pa.nulls(len(items), _LIST)}
    for column, feature in (("name", roles.name), ("brand", roles.brand)):
        mine |= {column: items.column(feature).cast(pa.string())} if feature else {}
    mine |= {"price": items.column(roles.price).cast(pa.float64())} if roles.price else {}
    if roles.categories:
        mine["categories"] = pa.array([_path(row) for row in json_rows(items.select(list(roles.categories)))], _LIST)
    return _view(items, mine)


_LIST = pa.list_(pa.string())


def _view(items: pa.Table, mine: Mapping[str, Any]) -> pa.Table:
    others = {name: items.column(name) for name in items.column_names if name not in mine}
    return pa.table({**others, **mine})


def served_data(release: LoadedRelease, item_ids: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of items of the served catalogue, with the client's names beside the schema's."""
    roles = roles_of(release.towers.schema.items)
    rows = json_rows(release.items.take(pa.array([release.rows[item_id] for item_id in item_ids], pa.int64())))
    made = []
    for row in rows:
        item_id = row.pop(ID_FIELD)
        path = _path({name: row[name] for name in roles.categories})
        known = {"id": item_id, "name": row.get(roles.name or "") or item_id, "brand": row.get(roles.brand or "")}
        known |= {"price": row.get(roles.price or ""), "categories": ", ".join(path) if path else None}
        made.append(row | known)
    return made


def _path(row: Mapping[str, Any]) -> list[str] | None:
    """The category path in the features of one item."""
    parts = [part for value in row.values() for part in (value if isinstance(value, list) else [value]) if part is not None]
    return [str(part) for part in parts] or None


def has_texts(column: pa.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which rows hold a text that is not empty, [N]."""
    found = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0).fill_null(False)
    mask: np.ndarray[Any, np.dtype[np.bool_]] = found.to_numpy()
    return mask


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _named(names: list[str], words: tuple[str, ...]) -> str | None:
    """The name that is one of the words, or else holds one, the earlier words first."""
    whole = next((word for word in words if word in names), None)
    return whole or next((name for word in words for name in names if word in name.lower()), None)


def _holds(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)
