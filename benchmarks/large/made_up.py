"""A made-up catalogue of millions of items, written piece by piece, so that making it takes little memory.

N: items of a piece
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_AT_ONCE = 500_000
WORDS, TITLE_WORDS = 20_000, 5
CATEGORIES = {"brand": 5_000, "category": 300, "maker": 2_000}


def write_items(path: Path, num_items: int, changed: float) -> None:
    """Write a catalogue. A share `changed` of the items has another price than the same catalogue with 0 has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    for table in _pieces(num_items, changed):
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None, "a catalogue has items"
    writer.close()


def _pieces(num_items: int, changed: float) -> Iterator[pa.Table]:
    words = pa.array([f"word{i}" for i in range(WORDS)])
    names = {kind: pa.array([f"{kind}-{i}" for i in range(number)]) for kind, number in CATEGORIES.items()}
    for start in range(0, num_items, ROWS_AT_ONCE):
        rng = np.random.default_rng(start)
        num = min(ROWS_AT_ONCE, num_items - start)
        ids = pc.binary_join_element_wise("sku", pc.cast(pa.array(np.arange(start, start + num)), pa.string()), "-")
        picked = [words.take(pa.array(np.minimum(rng.zipf(1.3, num) - 1, WORDS - 1))) for _ in range(TITLE_WORDS)]
        price_N = np.round(rng.lognormal(1.5, 0.8, num), 2)
        categories = {kind: values.take(pa.array(rng.integers(0, len(values), num))) for kind, values in names.items()}
        price_N[rng.random(num) < changed] += 1.0  # drawn last, so that all else is as without changes
        yield pa.table({"item_id": ids, "title": pc.binary_join_element_wise(*picked, " "), **categories, "price": price_N})
