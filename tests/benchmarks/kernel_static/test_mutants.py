"""The mutants have the expected errors at the expected places."""

import ast

from benchmarks.kernel_static.mutants import mutants

SOURCE = '''
LIMIT = 1 + 1


def launcher(x):
    return x < 2


@jit
def kernel(x_ptr, out_ptr, num_rows, BLOCK: tl.constexpr) -> None:
    """Rows < num_rows."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row, mask=row < num_rows, other=0.0)
    tl.store(out_ptr, tl.where(x >= 0, x, -x))
'''


def test_each_slip_is_planted_alone_in_kernels_only() -> None:
    names = [mutant.name.removeprefix("kernel: ") for mutant in mutants(SOURCE)]

    assert "row < num_rows -> row <= num_rows" in names
    assert "tl.program_id(0) * BLOCK -> tl.program_id(0)" in names
    assert "tl.load(x_ptr + row, mask=row < num_rows, other=0.0) -> tl.load(x_ptr + row)" in names
    assert "tl.load(x_ptr + row, mask=row < num_rows, other=0.0) -> tl.load(x_ptr + row, mask=row < num_rows, other=1.0)" in names
    assert "tl.where(x >= 0, x, -x) -> tl.where(x >= 0, -x, x)" in names
    assert "-x -> x" in names
    assert not [name for name in names if "x < 2" in name or "1 + 1" in name or "arange(1" in name]
    assert len(names) == len(set(names))


def test_a_mutant_is_the_source_with_one_change() -> None:
    (mutant,) = (mutant for mutant in mutants(SOURCE) if mutant.name == "kernel: x >= 0 -> x > 0")

    assert ast.dump(ast.parse(mutant.source)) == ast.dump(ast.parse(SOURCE.replace("x >= 0", "x > 0")))


def test_the_same_slip_in_two_places_has_two_names() -> None:
    twice = SOURCE + "    tl.store(out_ptr, tl.where(x >= 0, x, -x))\n"

    assert {"kernel: x >= 0 -> x > 0", "kernel: x >= 0 -> x > 0 (#2)"} <= {mutant.name for mutant in mutants(twice)}
