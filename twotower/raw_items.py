"""Items as JSON describes them, brought under the columns of an item table."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

Features = Mapping[str, Any]  # by the schema's names; what is not given is missing


class UnusableFeature(ValueError):
    """A feature that items do not have, or a value that is not of its column's type."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def item_row(features: Features, schema: pa.Schema) -> pa.Table:
    """One row of the table; UnusableFeature says which feature does not fit."""
    if unknown := [name for name in features if name not in schema.names]:
        raise UnusableFeature(unknown[0], f"items have no feature {unknown[0]!r}; they have {', '.join(schema.names)}")
    return pa.table([_column(field, features.get(field.name)) for field in schema], schema=schema)


def _column(field: pa.Field, value: Any) -> pa.Array:
    try:
        return pa.array([value]).cast(field.type)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise UnusableFeature(field.name, f"{field.name!r} must be {field.type}: {error}") from error
