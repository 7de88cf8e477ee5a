#!/bin/sh
# pyarrow 26.0.1: binary_join_element_wise(..., null_handling="skip") leaves out the rows that are null in all columns.
#
# A good engineer would guess that an element-wise function returns a value for each row. This one returns 2 for 3, without an error,
# so every later row stands beside the wrong item. We fill nulls before we join (service/release/finding.py).
#
# Output seen, with pyarrow 26.0.1:
#   3 rows joined: ['x', 'y']
#
# Needs Python 3.11 or newer and a package index. Fails when the output changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import pyarrow as pa
import pyarrow.compute as pc

joined = pc.binary_join_element_wise(pa.array(["x", None, "y"]), " ", null_handling="skip")
print("3 rows joined:", joined.to_pylist())
PYTHON
cat "$folder/seen"
diff - "$folder/seen" <<'SEEN'
3 rows joined: ['x', 'y']
SEEN
echo "as described"
