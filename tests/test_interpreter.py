"""The watched interpreter finds planted errors, computes bfloat16 as torch does, and stays inside this process."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.interpreter import MemoryFault, checked
from twotower.kernels.dispatch import jit, tl

ROWS, BLOCK = 20, 16


@jit
def add_one(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row, mask=row < num_rows)
    tl.store(out_ptr + row, x + 1, mask=row < num_rows)


@jit
def double(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row, mask=row < num_rows)
    tl.store(out_ptr + row, x + x, mask=row < num_rows)


@jit
def add_one_unmasked(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row)
    tl.store(out_ptr + row, x + 1, mask=row < num_rows)


@jit
def total(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + row, mask=row < num_rows, other=0.0), 0))


@jit
def shift(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + 1, mask=row + 1 < num_rows, other=0.0)
    tl.store(out_ptr + row, x, mask=row < num_rows)


@jit
def halves(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.arange(0, BLOCK)
    tl.store(out_ptr + row // 2, tl.load(x_ptr + row))


@jit
def write_even(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + row, tl.load(x_ptr + row, mask=row < num_rows), mask=(row < num_rows) & (row % 2 == 0))


@jit
def products(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + row * BLOCK + column)
    tl.store(out_ptr + row * BLOCK + column, tl.dot(x, tl.trans(x)).to(tl.bfloat16))


@jit
def maxima(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + row, tl.maximum(tl.load(x_ptr + row).to(tl.float32), 0.0).to(tl.bfloat16))


@jit
def best(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    row = tl.arange(0, BLOCK)
    tl.store(out_ptr + row, tl.sort(tl.load(x_ptr + row), descending=True))


@jit
def order(x_ptr: Any, out_ptr: Any, num_rows: Any, BLOCK: tl.constexpr) -> None:
    tl.store(out_ptr + tl.program_id(0), tl.atomic_add(x_ptr, 1))


def run(kernel: Any, x: torch.Tensor, out: torch.Tensor, programs: int = 2) -> torch.Tensor:
    kernel[(programs,)](x, out, ROWS, BLOCK=BLOCK)
    return out


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(ROWS, generator=torch.Generator().manual_seed(0))


@checked()
def test_a_masked_tail_passes(x: torch.Tensor) -> None:
    assert torch.equal(run(add_one, x, torch.empty(ROWS)), x + 1)


@checked()
def test_an_unmasked_tail_is_found(x: torch.Tensor) -> None:
    with pytest.raises(MemoryFault, match="12 of 16 addresses read are outside every tensor argument"):
        run(add_one_unmasked, x, torch.empty(ROWS))


@checked()
def test_a_view_ends_where_its_last_element_does(x: torch.Tensor) -> None:
    with pytest.raises(MemoryFault, match="outside"):
        run(add_one, x[: ROWS - 1], torch.empty(ROWS))


@checked()
def test_two_programs_that_write_one_address_are_found(x: torch.Tensor) -> None:
    with pytest.raises(MemoryFault, match="total: two programs write one address"):
        run(total, x, torch.empty(1))


@checked()
def test_a_program_that_reads_what_another_writes_is_found(x: torch.Tensor) -> None:
    assert torch.equal(run(shift, x, torch.empty(ROWS))[:-1], x[1:])
    with pytest.raises(MemoryFault, match="shift: a program reads what another writes"):
        run(shift, x, x)


@checked()
def test_a_program_may_change_its_own_rows_in_place(x: torch.Tensor) -> None:
    assert torch.equal(run(add_one, x, x.clone()), run(add_one, x, x))


@checked()
def test_a_store_of_two_values_to_one_address_is_found(x: torch.Tensor) -> None:
    with pytest.raises(MemoryFault, match="two values"):
        run(halves, x, torch.empty(ROWS), programs=1)


@checked()
def test_what_no_program_writes_stays_poisoned(x: torch.Tensor) -> None:
    written = run(write_even, x, torch.empty(ROWS))

    assert torch.equal(written[::2], x[::2])
    assert written[1::2].isnan().all()
    assert torch.empty(3, dtype=torch.int64).eq(torch.iinfo(torch.int64).max).all()


@checked()
def test_bfloat16_products_are_as_exact_as_those_of_torch() -> None:
    x = torch.randn(BLOCK, BLOCK, generator=torch.Generator().manual_seed(0)).bfloat16()
    truth = x.double() @ x.double().T

    made = run(products, x, torch.empty(BLOCK, BLOCK, dtype=torch.bfloat16), programs=1)

    assert (made - truth).abs().max() <= 1.01 * (x @ x.T - truth).abs().max()


@checked()
@pytest.mark.filterwarnings("error")
def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    x = torch.tensor([1.00390625, 1.01171875, 3.39e38, float("inf"), float("nan"), 1e-40, 0.0, 2.5, *range(1, 25)])
    bits = torch.empty(32, dtype=torch.bfloat16)

    assert torch.equal(run(maxima, x, bits).view(torch.int16)[x == x], x.bfloat16().view(torch.int16)[x == x])


@checked()
def test_arithmetic_on_bfloat16_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="convert to float32 first"):
        run(double, x.bfloat16(), torch.empty(ROWS, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="convert to float32 first"):
        run(total, x.bfloat16(), torch.empty(1), programs=1)


@checked()
def test_sorting_is_right(x: torch.Tensor) -> None:
    assert torch.equal(run(best, x, torch.empty(BLOCK), programs=1), x[:BLOCK].sort(descending=True).values)


def test_programs_run_in_an_order_drawn_from_the_seed() -> None:
    def order_of(seed: int) -> list[int]:
        with checked(seed):
            ran: list[int] = run(order, torch.zeros(1, dtype=torch.int64), torch.empty(16, dtype=torch.int64), 16).tolist()
            return ran

    assert sorted(order_of(0)) == list(range(16))
    assert order_of(0) == order_of(0) != order_of(1)


def test_processes_that_tests_start_do_not_interpret() -> None:
    program = "import sys, twotower.kernels.dispatch; sys.exit('triton' in sys.modules)"

    assert "TRITON_INTERPRET" not in os.environ
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
