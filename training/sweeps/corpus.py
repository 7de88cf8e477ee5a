"""The data of a sweep, read once for all of its runs."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec

from training.data.read import Data, read_data
from training.recipes.budget import CONTEXT_TABLE_ROWS
from twotower.data.features import EncodedRows, FeatureSpec
from twotower.data.schema import Schema, load_schema
from twotower.model.catalogue import encode_items, fit_item_spec, stream_items
from twotower.tables.table import open_table

HALF_LIVES_DAYS = (14.0, 2.0)  # the defaults of a training run


@dataclass(frozen=True)
class Files:
    """Where the data lie. A worker in another process gets these, and reads them itself."""

    events: Path
    items: Path
    schema: Path


@dataclass(frozen=True)
class Corpus:
    """Events and items in memory. Signals are left out: all runs of a sweep do without."""

    files: Files
    schema: Schema
    data: Data

    @cached_property
    def item_spec(self) -> FeatureSpec:
        """Vocabularies and edges of the items' features."""
        return fit_item_spec(self.files.items, self.schema.items)

    def encoded(self, table_rows: int) -> EncodedRows:
        """The features of all items, for an embedder with so many rows in its hash table."""
        tables = stream_items(self.files.items, self.schema.items)
        return EncodedRows.concatenate([encode_items(table, self.item_spec, table_rows) for table in tables])

    def trained_until(self, share: float) -> Data:
        """The data with a training part that ends after a share of its time. The test part stays where it is."""
        start = int(self.data.log.times_ms_E.min())
        until = start + round(share * (self.data.train_until_ms - start))
        return replace(self.data, train_until_ms=until)


def read_corpus(files: Files) -> Corpus:
    """Read the data of a sweep."""
    schema = msgspec.structs.replace(load_schema(files.schema), signals=None)
    return Corpus(files, schema, read_data(files.events, files.items, schema, HALF_LIVES_DAYS, CONTEXT_TABLE_ROWS))


def corpus_name(name: str, files: Files) -> str:
    """A name that changes with the data: the name given, and a digest of the schema and of the sizes of both tables."""
    schema = load_schema(files.schema)
    digest = hashlib.sha256(msgspec.json.encode(schema, order="sorted"))
    for path, kind in ((files.events, "events"), (files.items, "items")):
        table = open_table(path, kind)
        digest.update(f"{table.num_rows} {sum(file.stat().st_size for file in _files(path))}".encode())
    return f"{name}-{digest.hexdigest()[:6]}"


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
