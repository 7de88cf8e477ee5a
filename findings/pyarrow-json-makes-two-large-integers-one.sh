#!/bin/sh
# pyarrow 26.0.1, pyarrow.json.read_json: two different unsigned integers of 64 bits become one number.
#
# A good engineer would guess that an integer beyond int64 is read as uint64, which pyarrow has, or is an error. Instead the whole
# column becomes double without a word. Ids of 2^63 and more (hashes are such ids) that differ in their last digits are then equal.
#
# Seen:
#   type: double
#   distinct values: 1 of 2
#   with an explicit uint64: 2 of 2
#
# Way out: state the type (explicit_schema with uint64), or write ids as text.
# Ends with 0 as long as it is so, else with 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PYTHON'
import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

lines = b'{"id": 9223372036854775808}\n{"id": 9223372036854775809}\n'
guessed = pj.read_json(io.BytesIO(lines)).column("id")
stated = pj.ParseOptions(explicit_schema=pa.schema([("id", pa.uint64())]))
exact = pj.read_json(io.BytesIO(lines), parse_options=stated).column("id")
print("type:", guessed.type)
print("distinct values:", pc.count_distinct(guessed), "of 2")
print("with an explicit uint64:", pc.count_distinct(exact), "of 2")
as_described = guessed.type == pa.float64() and pc.count_distinct(guessed).as_py() == 1 and pc.count_distinct(exact).as_py() == 2
raise SystemExit(not as_described)
PYTHON
