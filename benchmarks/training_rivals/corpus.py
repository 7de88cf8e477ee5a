"""Prepared corpora for the benchmarks, made once and reused."""

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
        """The event log."""
        return self.directory / "events.parquet"

    @property
    def items(self) -> Path:
        """The catalogue."""
        return self.directory / "items.parquet"

    @property
    def schema(self) -> Path:
        """The schema of both."""
        return self.directory / "schema.toml"

    @property
    def signals(self) -> Path | None:
        """The signals; None if the corpus has none."""
        path = self.directory / "signals.parquet"
        return path if path.exists() else None

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.directory.name

    @property
    def fingerprint(self) -> str:
        """A hash of all files."""
        return hash_of(path for path in (self.events, self.items, self.schema, self.signals) if path is not None)


def prepared(directory: Path, corpus: str, *arguments: str | Path) -> Corpus:
    """A corpus, written by `twotower prepare` if the directory does not exist."""
    if directory.exists():
        say(f"reused {directory}, of {made_on(directory)}")
    else:
        run_twotower("prepare", corpus, *arguments, "--out", directory)
    return Corpus(directory)


def best_sellers(corpus: Corpus, num_items: int, directory: Path) -> Corpus:
    """A corpus in `directory` of the `num_items` items with the most training events, and their events."""
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
    """Run a twotower command as a user would."""
    subprocess.run([sys.executable, "-m", "twotower.cli", *arguments], check=True)
