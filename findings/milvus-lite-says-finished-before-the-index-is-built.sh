#!/bin/sh
# Milvus Lite: describe_index says Finished, with all rows indexed, while the index is still being built.
#
# Versions: milvus-lite 3.2.2, pymilvus 3.0.2, faiss-cpu 1.15.1, numpy 2.4.6; Python 3.11 on Linux x86-64.
#
# Valid input: a collection that has its index (AUTOINDEX, L2) from the beginning, 40,000 rows of width 64, then flush.
# Expected: a program that waits until describe_index says Finished searches by the index from then on.
# Seen:
#   right after flush: state Finished, 40000 of 40000 rows indexed, 0 index files on disk
#   later: state Finished, 40000 of 40000 rows indexed, 0 index files on disk                          (12 times, a second each)
#   later: state Finished, 40000 of 40000 rows indexed, 1 index files on disk
#   index created after the rows: state Finished, 40000 of 40000 rows indexed, 1 index files on disk   (at once)
# Why it matters: until the file is there, a search compares all queries with all rows at once, in memory of
# queries x rows x width x 4 bytes.
# The rule that follows: create the index after the rows are inserted and flushed. create_index then returns when it is built.
#
# Exit status 0 while this holds, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q milvus-lite==3.2.2 pymilvus==3.0.2 faiss-cpu==1.15.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time
from pathlib import Path

import numpy as np
from pymilvus import DataType, MilvusClient

WIDTH, ROWS = 64, 40_000
client = MilvusClient("rows.db")


def make(name, index_first):
    rows = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    schema = client.create_schema(auto_id=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=WIDTH)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="L2")
    client.create_collection(name, schema=schema, index_params=index if index_first else None)
    for start in range(0, ROWS, 2_000):
        client.insert(name, [{"row": row, "vector": rows[row]} for row in range(start, start + 2_000)])
    client.flush(name)
    if not index_first:
        client.create_index(name, index)
        client.load_collection(name)


def look(when, name):
    told = client.describe_index(name, "vector")
    files = len([path for path in Path("rows.db").rglob("*.idx") if name in str(path)])
    print(f"{when}: state {told['state']}, {told['indexed_rows']} of {told['total_rows']} rows indexed, {files} index files on disk")
    return str(told["state"]) == "Finished" and told["indexed_rows"] == ROWS, files


make("before", index_first=True)
finished, files = look("right after flush", "before")
for _ in range(120):
    time.sleep(1)
    if look("later", "before")[1]:
        break
make("after", index_first=False)
_, files_after = look("index created after the rows", "after")
holds = finished and files == 0 and files_after > 0
print("holds" if holds else "CHANGED")
sys.exit(0 if holds else 1)
PYTHON
