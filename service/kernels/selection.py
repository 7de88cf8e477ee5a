"""The highest numbers of each row, by one kernel: torch takes two or more, because it sorts all that it finds.

The lowest number that is wanted is found bit by bit, by counting how many numbers of the row are no lower. The row stays in
registers meanwhile.

Q: rows, M: numbers of a row, B: numbers that are wanted, S: spans of neighbours that are looked at
"""

import torch
from torch import Tensor

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, tl, triton

SPAN = 16
LONGEST = 16_384  # numbers that one program holds


def highest(numbers_QM: Tensor, num: int, spans_QS: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Places [Q, B], int32, of the highest numbers of each row, in ascending order, and the highest number that is left, [Q].

    Of equal numbers any are taken. Nothing left is -inf. If `spans_QS` is given, in ascending order, only these spans of 16
    neighbours are looked at. No number is NaN, and `num` is at least 1 and no more than are looked at. It is a part of a search
    by kernels, so it runs a kernel whatever the tensors; rows that are too long for one program are left to torch.
    """
    looked_at = numbers_QM.shape[1] if spans_QS is None else SPAN * spans_QS.shape[1]
    return (highest_triton if looked_at <= LONGEST else highest_reference)(numbers_QM, num, spans_QS)


def highest_reference(numbers_QM: Tensor, num: int, spans_QS: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Torch reference of `highest`."""
    places_QM = None
    if spans_QS is not None:
        places_QM = (spans_QS[:, :, None].long() * SPAN + torch.arange(SPAN, device=numbers_QM.device)).flatten(1)
        numbers_QM = numbers_QM.gather(1, places_QM)
    best_QC, place_QC = numbers_QM.topk(min(num + 1, numbers_QM.shape[1]))
    chosen_QB = place_QC[:, :num].sort(dim=1).values
    rest_Q = best_QC[:, num].contiguous() if num < best_QC.shape[1] else best_QC.new_full((len(best_QC),), -torch.inf)
    return (chosen_QB if places_QM is None else places_QM.gather(1, chosen_QB)).int(), rest_Q


def highest_triton(
    numbers_QM: Tensor, num: int, spans_QS: Tensor | None = None, options: dict[str, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Triton implementation of `highest`. One program takes one row."""
    num_rows, length = numbers_QM.shape
    assert numbers_QM.is_contiguous()
    num_spans = 0 if spans_QS is None else spans_QS.shape[1]
    looked_at = SPAN * num_spans or length
    assert 1 <= num <= looked_at <= LONGEST
    block, options = triton.next_power_of_2(looked_at), options or configuration("highest", current_target())
    places_QB, rest_Q = numbers_QM.new_empty(num_rows, num, dtype=torch.int32), numbers_QM.new_empty(num_rows)
    highest_kernel[(num_rows,)](
        numbers_QM, spans_QS, places_QB, rest_Q, length, looked_at, num, num_spans,
        SPAN=SPAN, BLOCK_M=block, **options | {"PART": min(block, options["PART"])},
    )  # fmt: skip
    return places_QB, rest_Q


@jit
def highest_kernel(  # type: ignore[no-untyped-def]
    numbers_ptr, spans_ptr, places_ptr, rest_ptr, length, looked_at, num, num_spans,
    SPAN: tl.constexpr, BLOCK_M: tl.constexpr, PART: tl.constexpr,
) -> None:  # fmt: skip
    """One program takes one row. It reads the row again in parts to write, because all of it fills the registers."""
    row = tl.program_id(0).to(tl.int64)
    _, keys = load_keys(numbers_ptr + row * length, spans_ptr, row * num_spans, tl.arange(0, BLOCK_M), looked_at, SPAN)
    lowest, num_equal = lowest_taken(keys, num, 32)
    counts, rest = tl.zeros([], tl.int32), tl.full([], -0x7F800001, tl.int32)  # the key of -inf
    for start in tl.range(0, looked_at, PART):
        column = start + tl.arange(0, PART)
        place, key = load_keys(numbers_ptr + row * length, spans_ptr, row * num_spans, column, looked_at, SPAN)
        is_taken, rank, counts = taken(key, lowest, num_equal, counts)
        tl.store(places_ptr + row * num + rank, place, mask=is_taken)
        rest = tl.maximum(rest, tl.max(tl.where(is_taken, -0x80000000, key), 0))
    tl.store(rest_ptr + row, (rest ^ ((rest >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True))


@jit
def load_keys(numbers_ptr, spans_ptr, first_span, column, looked_at, SPAN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Places of some numbers that are looked at, and keys that sort as the numbers do."""
    is_looked_at, place = column < looked_at, column
    if spans_ptr is not None:
        place = tl.load(spans_ptr + first_span + column // SPAN, mask=is_looked_at, other=0) * SPAN + column % SPAN
    number = tl.load(numbers_ptr + place, mask=is_looked_at, other=0.0)
    bits = tl.where(number == 0, 0.0, number).to(tl.int32, bitcast=True)  # -0 is no less than 0
    return place, tl.where(is_looked_at, bits ^ ((bits >> 31) & 0x7FFFFFFF), -0x80000000)


@jit
def lowest_taken(key, num, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A number that the `num` highest of some integers of so many bits reach, and how many that are equal to it are among them.

    It is found bit by bit from the highest on, until exactly `num` integers reach it or there are no more bits.
    """
    reach = tl.sum((key >= 0).to(tl.int32), 0)
    lowest = (reach < num).to(key.dtype) << (BITS - 1)
    bit = tl.full([], BITS - 2, key.dtype)
    while (bit >= 0) & (reach != num):
        higher = lowest + (tl.full([], 1, key.dtype) << bit)
        reach_higher = tl.sum((key >= higher).to(tl.int32), 0)
        if reach_higher >= num:
            lowest = higher
            reach = reach_higher
        bit -= 1
    return lowest, num - tl.sum((key > lowest).to(tl.int32), 0)


@jit
def taken(key, lowest, num_equal, before):  # type: ignore[no-untyped-def]
    """Which of a part of the integers are taken, of equal ones those that come first; their ranks by place; and the counts then.

    `before` and the result count in one number: taken higher integers in the lower 16 bits, equal ones in those above.
    """
    is_higher, is_equal = key > lowest, key == lowest
    number = (is_equal.to(tl.int32) << 16) + is_higher.to(tl.int32)
    counts = before + tl.cumsum(number, 0)
    is_taken = is_higher | (is_equal & (counts >> 16 <= num_equal))
    return is_taken, tl.minimum(counts >> 16, num_equal) + (counts & 0xFFFF) - 1, before + tl.sum(number, 0)
