#!/bin/sh
# pyarrow 26.0.1: pyarrow.compute.binary_join_element_wise(..., null_handling="skip") returns fewer rows than it was given.
#
# The function joins the texts of several columns row by row; "skip" leaves missing texts out of a row. A row in which every text is
# missing is not an empty text and not a null: it is gone. Every later row moves up by one, without an error, so that a column made
# this way no longer belongs to its table's rows (a catalogue whose title and brand are both missing for one item).
# With null_handling="replace" or "emit_null" there is a row for each row.
#
# Versions: pyarrow 26.0.1, Python 3.11 on Linux x86-64. About 50 MB are downloaded.
#
# Valid input: two columns of three texts, both missing in the second row.
# The rule that follows: fill the missing texts of one column with "" first, or compare the lengths.
#
# Seen:
#   skip: 2 rows ['a-x', 'b-y']
#   replace: 3 rows ['a-x', '-', 'b-y']
#   emit_null: 3 rows ['a-x', None, 'b-y']
#
# Exit status 0 while this holds, 1 when it has changed.
set -eu
DIRECTORY=$(mktemp -d)
trap 'rm -rf "$DIRECTORY"' EXIT
python3 -m venv "$DIRECTORY/venv"
"$DIRECTORY/venv/bin/pip" install --quiet pyarrow==26.0.1
"$DIRECTORY/venv/bin/python" - <<'PYTHON'
import pyarrow as pa
import pyarrow.compute as pc

titles, brands = pa.array(["a", None, "b"]), pa.array(["x", None, "y"])
seen = {}
for handling in ("skip", "replace", "emit_null"):
    joined = pc.binary_join_element_wise(titles, brands, "-", null_handling=handling)
    seen[handling] = joined.to_pylist()
    print(f"{handling}: {len(joined)} rows {seen[handling]}")
raise SystemExit(
    seen != {"skip": ["a-x", "b-y"], "replace": ["a-x", "-", "b-y"], "emit_null": ["a-x", None, "b-y"]}
)
PYTHON
