#!/bin/sh
# torch 2.13.0: torch._int_mm, the int8 matrix product that quantisation libraries call, is wrong without an error where the inner
# width is 1 and the second factor is the transpose of a matrix of rows.
#
# Rows of int8 codes are kept as [rows, width] and multiplied by their transpose, which is a view. With width 1 its strides are
# (1, 1), and the product is another one. A second factor made as [width, rows], with strides (rows, 1), is multiplied rightly, and
# so are transposes of every width from 2 to 139.
#
# Versions: torch 2.13.0 (the build for CPUs), numpy 2.4.6, Python 3.11 on Linux x86-64. About 200 MB are downloaded.
#
# Valid input: codes from -127 to 127, two queries, fifty rows.
# The rule that follows: compare one small product with numpy's before codes of some width are multiplied as integers.
#
# Seen:
#   width 1, transpose: wrong
#   width 1, made as [width, rows]: right
#   width 2 to 139, transpose: right
#
# Exit status 0 while this holds, 1 when it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch

torch.manual_seed(0)


def is_right(queries, rows):
    return torch.equal(torch._int_mm(queries, rows), (queries.long() @ rows.long()).int())


def codes(*shape):
    return torch.randint(-127, 128, shape, dtype=torch.int8)


transpose = is_right(codes(2, 1), codes(50, 1).T)
made = is_right(codes(2, 1), codes(1, 50))
wider = all(is_right(codes(2, width), codes(50, width).T) for width in range(2, 140))
for name, right in (("width 1, transpose", transpose), ("width 1, made as [width, rows]", made), ("width 2 to 139, transpose", wider)):
    print(f"{name}: {'right' if right else 'wrong'}")
raise SystemExit((transpose, made, wider) != (False, True, True))
PYTHON
