"""What is wrong with the items of a catalogue, by the rules that the nightly job has for them.

B: rows of a batch
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.faults import faulty_features, faulty_ids
from twotower.data.features import FeatureSpec, FieldSpec, as_lists, as_values, num_cut, to_days, to_floats
from twotower.data.schema import ItemColumns
from twotower.errors import DataError
from twotower.tables.ids import Mask, id_texts, read_ids

PUBLISHED_WITHOUT = 0.01  # share of items that a release may lack: the nightly job's limit, unless it is told another
MOSTLY = 0.5  # a column that is missing in more of the items costs quality


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about the data: where it is, what it is, and what it costs or what to do."""

    level: str  # "error" stops training, "warning" costs quality, "note" is for information
    where: str
    what: str


@dataclass(slots=True)
class ItemTally:
    """Counts over all items of what is missing, cut, or a fault."""

    id_column: str
    fields: Sequence[FieldSpec]  # of the columns that fit their kind
    num_rows: int = 0
    num_sound: int = 0  # items that the nightly job embeds
    missing: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    faults: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)  # column, reason -> count, example
    broken: dict[str, str] = field(default_factory=dict)  # columns that turned out not to fit
    _ids: list[pa.Array] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        """Take account of the next rows, with the columns as they are in the file."""
        id_column = rows.column(self.id_column).combine_chunks()
        sound_B = np.ones(len(rows), bool)
        for _, reason, faulty_B in faulty_ids(id_column, self.id_column):
            self._add_fault(self.id_column, reason, faulty_B, id_column)
            sound_B &= ~faulty_B
        self._ids.append(read_ids(id_column, self.id_column)[0])
        for spec in self.fields:
            if spec.name in self.broken:
                continue
            try:
                sound_B &= ~self._add_column(rows, spec, id_column)
            except DataError as error:
                self.broken[spec.name] = str(error)
        self.num_rows += len(rows)
        self.num_sound += int(sound_B.sum())

    def _add_column(self, rows: pa.Table, spec: FieldSpec, id_column: pa.Array) -> Mask:
        column = rows.column(spec.name).combine_chunks()
        one = ItemColumns(item_id=self.id_column, features={spec.name: spec.kind})  # type: ignore[dict-item]
        any_B = np.zeros(len(rows), bool)
        for _, reason, faulty_B in faulty_features(rows, one, FeatureSpec(fields=(spec,))):
            self._add_fault(spec.name, reason, faulty_B, id_column)
            any_B |= faulty_B
        sound = column.filter(pa.array(~any_B)) if any_B.any() else column
        self.missing[spec.name] = self.missing.get(spec.name, 0) + _num_missing(sound, spec)
        if spec.kind in ("text", "list"):
            self.cut[spec.name] = self.cut.get(spec.name, 0) + num_cut(sound, spec)
        return any_B

    def _add_fault(self, column: str, reason: str, faulty_B: Mask, id_column: pa.Array) -> None:
        count, example = self.faults.get((column, reason), (0, ""))
        if not count:
            place = int(faulty_B.argmax())
            item_id = id_texts(id_column.slice(place, 1))[0]
            example = (
                f"row {self.num_rows + place + 1}"
                if not item_id
                else repr(item_id if len(item_id) <= 40 else item_id[:37] + "...")
            )
        self.faults[column, reason] = (count + int(faulty_B.sum()), example)

    def item_ids(self) -> pa.Array:
        """The ids of the items, each once."""
        found = pa.chunked_array(self._ids, pa.string()).unique()
        return found.filter(pc.not_equal(found, ""))

    def findings(self) -> Iterator[Finding]:
        """What training and the nightly job will make of these items."""
        yield from (Finding("error", f"items.{name}", why) for name, why in self.broken.items())
        for (column, reason), (count, example) in self.faults.items():
            what = f"{reason} in {count:,} items ({count / self.num_rows:.1%}), such as {example}"
            if column == self.id_column:
                yield Finding("error", f"items.{column}", f"the id {what}; each item needs one")
            else:
                cost = "training takes it as missing, and embed leaves these items out of the release"
                yield Finding("warning", f"items.{column}", f"{what}: {cost}")
        yield from self._repeated()
        if (rejected := self.num_rows - self.num_sound) > PUBLISHED_WITHOUT * self.num_rows:
            what = f"embed would leave out {rejected:,} of {self.num_rows:,} items ({rejected / self.num_rows:.1%})"
            yield Finding(
                "warning",
                "items",
                f"{what}, and publishes no release that lacks more than {PUBLISHED_WITHOUT:.0%}, unless its limits allow it",
            )
        for name, count in self.missing.items():
            if count:
                share = count / self.num_rows
                level = "warning" if share > MOSTLY else "note"
                yield Finding(level, f"items.{name}", f"missing in {count:,} items ({share:.1%})")
        for spec in self.fields:
            if count := self.cut.get(spec.name, 0):
                tokens = "words and word pairs" if spec.kind == "text" else "values"
                what = (
                    f"{count:,} items ({count / self.num_rows:.1%}) have more than the {spec.max_tokens} {tokens} that are read"
                )
                yield Finding("note", f"items.{spec.name}", f"{what}; the rest of these is cut")

    def _repeated(self) -> Iterator[Finding]:
        counts = pc.value_counts(pa.chunked_array(self._ids, pa.string()).combine_chunks())
        again = pc.and_(pc.greater(counts.field("counts"), 1), pc.not_equal(counts.field("values"), ""))
        twice = counts.filter(again)
        if len(twice):
            rows = pc.sum(twice.field("counts")).as_py() - len(twice)
            examples = ", ".join(map(repr, twice.field("values")[:3].to_pylist()))
            what = f"{len(twice):,} ids occur more than once, such as {examples}"
            yield Finding("error", f"items.{self.id_column}", f"{what}; keep one row per item ({rows:,} rows too many)")


def _num_missing(column: pa.Array, spec: FieldSpec) -> int:
    """Number of missing values, including NaN. DataError when the column is not of its kind."""
    match spec.kind:
        case "numeric":
            return int((~np.isfinite(to_floats(column, spec.name))).sum())
        case "time":
            return int((~np.isfinite(to_days(column, spec.name))).sum())
        case "list" | "vector":
            return int(as_lists(column, spec.name, pa.string() if spec.kind == "list" else pa.float64()).null_count)
        case _:
            return int(as_values(column, spec.name).null_count)
