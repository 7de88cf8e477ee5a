"""Prepared data for the benchmarks, made once."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.training_rivals.kept_parts import hash_of, made_on
from twotower.artefacts.manifest import staging
from twotower.data.schema import load_schema
from twotower.progress import say


@dataclass(frozen=True)
class Corpus:
    """A directory with events.parquet, items.parquet, schema.toml and, where the schema names signals, signals.parquet."""

    directory: Path

    @property
    def events(self) -> Path:
        """events.parquet."""
        return self.directory / "events.parquet"

    @property
    def items(self) -> Path:
        """items.parquet."""
        return self.directory / "items.parquet"

    @property
    def schema(self) -> Path:
        """schema.toml."""
        return self.directory / "schema.toml"

    @property
    def signals(self) -> Path | None:
        """signals.parquet, where there is one."""
        path = self.directory / "signals.parquet"
        return path if path.exists() else None

    @property
    def name(self) -> str:
        """What the directory is called."""
        return self.directory.name

    @property
    def fingerprint(self) -> str:
        """Changes when any of the files does."""
        return hash_of(path for path in (self.events, self.items, self.schema, self.signals) if path is not None)


def prepared(directory: Path, corpus: str, *arguments: str | Path) -> Corpus:
    """The data of a corpus, written by `twotower prepare` unless it is there."""
    if directory.exists():
        say(f"reused {directory}, of {made_on(directory)}")
    else:
        run_twotower("prepare", corpus, *arguments, "--out", directory)
    return Corpus(directory)


def best_sellers(corpus: Corpus, num_items: int, directory: Path) -> Corpus:
    """The `num_items` items with the most training events, and their events, as a corpus of its own in `directory`."""
    schema = load_schema(corpus.schema)
    roles, until = schema.events, schema.require_split().validation_from
    if not directory.exists():
        events = pq.read_table(corpus.events)
        counts = events.filter(pc.less(events[roles.timestamp], until))[roles.item_id].value_counts()
        best = counts.take(pc.sort_indices(counts.field("counts"), sort_keys=[("", "descending")])[:num_items]).field("values")
        with staging(directory.parent) as staged:
            for file, column in ((corpus.events, roles.item_id), (corpus.items, schema.items.item_id)):
                pq.write_table(pq.read_table(file, filters=pc.is_in(pc.field(column), best)), staged / file.name)
            (staged / corpus.schema.name).write_bytes(corpus.schema.read_bytes())
            staged.rename(directory)
    return Corpus(directory)


def run_twotower(*arguments: str | Path) -> None:
    """One of our own commands, as a user would run it."""
    subprocess.run([sys.executable, "-m", "twotower.cli", *arguments], check=True)
