#!/bin/sh
# pyarrow 26.0.1 casts no decimal32 to int64: every value, 7 too, is "out of bounds". int32 and uint8, which are narrower, take it, and
# so does int64 from decimal64 and decimal128. Parquet files hold decimal32 when they were written from Arrow data of that type.
#
# A good engineer would guess that every decimal32 without a fraction fits int64, whose range is far wider.
# We cast to decimal128 first (twotower/tables/plain.py).
#
# Output seen, with pyarrow 26.0.1:
#   decimal32(9, 0) -> int32: 7
#   decimal32(9, 0) -> int64: ArrowInvalid: Integer value out of bounds
#   decimal32(9, 0) -> decimal128(9, 0) -> int64: 7
#   decimal64(9, 0) -> int64: 7
#
# Needs Python 3.11 or newer and a package index. Fails when the output changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
from decimal import Decimal

import pyarrow as pa


def show(what, cast):
    try:
        print(f"{what}: {cast()[0].as_py()}")
    except pa.ArrowInvalid as error:
        print(f"{what}: ArrowInvalid: {error}")


seven = pa.array([Decimal(7)], pa.decimal32(9, 0))
show("decimal32(9, 0) -> int32", lambda: seven.cast(pa.int32()))
show("decimal32(9, 0) -> int64", lambda: seven.cast(pa.int64()))
show("decimal32(9, 0) -> decimal128(9, 0) -> int64", lambda: seven.cast(pa.decimal128(9, 0)).cast(pa.int64()))
show("decimal64(9, 0) -> int64", lambda: pa.array([Decimal(7)], pa.decimal64(9, 0)).cast(pa.int64()))
PYTHON
cat "$folder/seen"
diff - "$folder/seen" <<'SEEN'
decimal32(9, 0) -> int32: 7
decimal32(9, 0) -> int64: ArrowInvalid: Integer value out of bounds
decimal32(9, 0) -> decimal128(9, 0) -> int64: 7
decimal64(9, 0) -> int64: 7
SEEN
echo "as described"
