#!/bin/sh
# Milvus Lite: a search with a limit returns fewer rows than the limit, although the collection holds many more rows.
#
# Versions: milvus-lite 3.2.2, pymilvus 3.0.2, faiss-cpu 1.15.1, numpy 2.4.6; Python 3.11 on Linux x86-64.
#
# Valid input: 20,000 rows of width 34 with distinct ids, an AUTOINDEX index with the metric L2, no filter, limit=1000.
# Expected: 1,000 rows for each query, or an error that names the setting to raise.
# Seen, without an error or a warning:
#   limit 1000: 659 to 801 rows for a query; recall of the 100 nearest 0.901
#   limit 1000, ef 1000: 1000 to 1000 rows for a query; recall of the 100 nearest 1.000
# Why: Lite leaves the search width of its HNSW graph (ef) at 64 whatever the limit is; the graph's search then ends early.
# The rule that follows: pass search_params={"params": {"ef": N}} with N at least as high as the limit.
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

import numpy as np
from pymilvus import DataType, MilvusClient

WIDTH, ROWS, LIMIT = 34, 20_000, 1_000
random = np.random.default_rng(0)
directions = random.standard_normal((8, WIDTH)) / 8**0.5
rows = (random.standard_normal((ROWS, 8)) @ directions + 0.05 * random.standard_normal((ROWS, WIDTH))).astype(np.float32)
rows[:, -1] = random.normal(-9, 1, ROWS)
queries = (random.standard_normal((8, 8)) @ directions).astype(np.float32)

client = MilvusClient("rows.db")
schema = client.create_schema(auto_id=False)
schema.add_field("row", DataType.INT64, is_primary=True)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=WIDTH)
client.create_collection("rows", schema=schema)
for start in range(0, ROWS, 2_000):
    client.insert("rows", [{"row": row, "vector": rows[row]} for row in range(start, start + 2_000)])
client.flush("rows")
index = client.prepare_index_params()
index.add_index("vector", index_type="AUTOINDEX", metric_type="L2")
client.create_index("rows", index)
client.load_collection("rows")
nearest = np.argsort(((queries[:, None] - rows[None]) ** 2).sum(2), 1)[:, :100]


def ask(what, **how):
    found = client.search("rows", data=list(queries), limit=LIMIT, anns_field="vector", **how)
    sizes = [len(hits) for hits in found]
    recall = np.mean([np.isin(best, [hit["row"] for hit in hits]).mean() for best, hits in zip(nearest, found)])
    print(f"{what}: {min(sizes)} to {max(sizes)} rows for a query; recall of the 100 nearest {recall:.3f}")
    return sizes


assert client.get_collection_stats("rows")["row_count"] == ROWS
few = ask("limit 1000")
all_of_them = ask("limit 1000, ef 1000", search_params={"params": {"ef": LIMIT}})
holds = max(few) < LIMIT and set(all_of_them) == {LIMIT}
print("holds" if holds else "CHANGED")
sys.exit(0 if holds else 1)
PYTHON
