"""Does a job of a catalogue, as a process of its own: a file that crashes its reader ends such a process, and not the server.

`python -m service.uploads.job FOLDER NUMBER TOWERS` writes the rows, the item table, and a bundle from the towers of the release
TOWERS, with popularity from the catalogue's sales. Then it runs `twotower embed`, and ends as that does.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.uploads.columns import has_texts, items_of, read_plain
from service.uploads.file_format import NOT_PARQUET
from service.uploads.folder import BUNDLE, ITEMS, STATE, Job, RejectedItem, RejectedItems, State, rows_name, upload_name
from service.uploads.sales import popularity_of
from twotower.artefacts.bundle import KIND, METRICS, POPULARITY, PROVENANCE, TOWER_FILES, read_config, write_table
from twotower.artefacts.manifest import seal, staging
from twotower.cli import main as twotower
from twotower.data.schema import load_schema
from twotower.errors import DataError, TwoTowerError
from twotower.progress import step
from twotower.tables.ids import MAX_ID_BYTES, undecodable

REJECTED, GATES = "rejected.json", "gates.toml"
NAMED_REJECTED = 100
NICENESS = 10  # the server goes first
# A catalogue may be another one after every upload, so only what holds for each on its own is a gate: vectors and scores that are
# numbers, and the share of the exact results that the index finds. Rows that cannot be used are left out before; the client hears
# of them.
LIMITS = "item_count_change = 1e12\ngolden_overlap = 0.0\nmissing_rise = 1.0\nsearch_p99_ms = 1000.0\n"


def prepare(folder: Path, state: State, job: Job, towers: Path) -> Path:
    """Write what `twotower embed` needs for a job, and return the path of the bundle."""
    with step("read"):
        rows = rows_after(folder, state, job)
        pq.write_table(rows, folder / rows_name(job))
        item_ids = pc.binary_join_element_wise(folder.name, rows.column("id").combine_chunks(), "/")
        schema, config = load_schema(towers / "schema.toml"), read_config(towers)
        pq.write_table(items_of(rows, item_ids, schema.items), folder / ITEMS)
        (folder / GATES).write_text(LIMITS)
        log_NP = popularity_of(rows, config.popularity_half_lives_days)
        signals_NS = np.zeros((len(rows), config.num_signals), np.float32)
        lists = pa.array(np.concatenate([log_NP, signals_NS], 1).tolist(), pa.list_(pa.float32()))
        return write_bundle(folder, towers, pa.table({"item_id": item_ids, "log_popularity": lists}))


def rows_after(folder: Path, state: State, job: Job) -> pa.Table:
    """All rows after a job. Those of its upload that cannot be used are noted in a file; DataError when none is left."""
    before = pq.read_table(folder / state.rows) if state.rows and job.kind != "embed" else None
    if job.kind == "renew":
        assert before is not None, "only a catalogue with a release is renewed"
        (folder / REJECTED).write_bytes(msgspec.json.encode(RejectedItems(count=0, total=len(before), products=[])))
        return before
    try:
        table = read_plain(pq.read_table(folder / upload_name(job), use_threads=False))
    except (pa.ArrowException, OSError) as error:
        raise DataError(NOT_PARQUET) from error
    new, rejected = usable(table, MAX_ID_BYTES - len(folder.name) - 1)
    (folder / REJECTED).write_bytes(msgspec.json.encode(rejected))
    rows = new if before is None else added(before, new)
    if not len(rows):
        reasons = ", ".join(sorted({item.reason for item in rejected.products}))
        raise DataError(f"none of the {rejected.total:,} rows can be used: {reasons}")
    return rows


def write_bundle(folder: Path, towers: Path, popularity: pa.Table) -> Path:
    """A bundle with the towers of a release and another popularity, in place of the one of a job before."""
    path = folder / BUNDLE
    shutil.rmtree(path, ignore_errors=True)
    with staging(folder) as made:
        for name in TOWER_FILES:
            shutil.copyfile(towers / name, made / name)
        write_table(made / POPULARITY, popularity)
        for name in (METRICS, PROVENANCE):
            (made / name).write_text("{}")
        seal(made, KIND, parent=None)
        made.rename(path)
    return path


def usable(table: pa.Table, max_id_bytes: int) -> tuple[pa.Table, RejectedItems]:
    """The rows that can be embedded, of several with one id the first, and those that cannot.

    Without a sound id and a name a row is rejected. Any other text that is not UTF-8 is missing.
    """
    long_N = pc.greater(pc.binary_length(table.column("id")), max_id_bytes).fill_null(False).to_numpy()
    table = without_broken_texts(table)
    faults = {f"id is longer than {max_id_bytes} bytes": long_N}
    faults |= {f"{name} is missing, or not UTF-8": ~has_texts(table.column(name)) for name in ("id", "name")}
    reasons = [next((reason for reason, faulty_N in faults.items() if faulty_N[row]), "") for row in range(len(table))]
    left = [row for row, reason in enumerate(reasons) if reason]
    ids = table.column("id").take(pa.array(left[:NAMED_REJECTED], pa.int64())).to_pylist()
    pairs = zip(ids, left, strict=False)  # the first of them
    named = [RejectedItem((item_id or "")[:MAX_ID_BYTES], reasons[row]) for item_id, row in pairs]
    sound = table.filter(pa.array([not reason for reason in reasons]))
    codes = sound.column("id").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.sort(np.unique(codes, return_index=True)[1])
    return sound.take(pa.array(first)).combine_chunks(), RejectedItems(count=len(left), total=len(table), products=named)


def without_broken_texts(table: pa.Table) -> pa.Table:
    """The table without texts that are not UTF-8, and without lists that hold one."""
    for place, field in enumerate(table.schema):
        column = table.column(place).combine_chunks()
        if pa.types.is_string(field.type):
            broken_N = undecodable(column)
        elif pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            broken_N = np.zeros(len(column), bool)
            broken_N[pc.list_parent_indices(column).to_numpy()[undecodable(pc.list_flatten(column))]] = True
        else:
            continue
        if broken_N.any():
            table = table.set_column(place, field, pc.if_else(pa.array(broken_N), None, column))
    return table


def added(before: pa.Table, new: pa.Table) -> pa.Table:
    """All rows after an addition: the new ones behind those of other ids."""
    is_replaced = pc.is_in(before.column("id"), new.column("id"))
    return pa.concat_tables([before.filter(pc.invert(is_replaced)), new]).combine_chunks()


def embed_options(folder: Path, bundle: Path) -> list[str]:
    """The options of `twotower embed` that publish the prepared items in the catalogue's own store."""
    options = {"--bundle": bundle, "--items": folder / ITEMS, "--store": folder / "store", "--gates": folder / GATES, "--keep": 2}
    return [str(word) for pair in options.items() for word in pair]


def main(arguments: Sequence[str]) -> int:
    """Do one job; the exit status is that of `twotower embed`."""
    os.nice(NICENESS)
    folder, number, towers = Path(arguments[0]), int(arguments[1]), Path(arguments[2])
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=State)
        job = next(job for job in state.jobs if job.number == number)
        bundle = prepare(folder, state, job, towers)
    except TwoTowerError as error:
        sys.stderr.write(f"twotower: error: {error}\n")
        return 2
    return twotower(["embed", *embed_options(folder, bundle), "--by-content", "--json"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
