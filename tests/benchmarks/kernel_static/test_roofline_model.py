"""The static model on kernels made up so that the answer can be worked out by hand."""

import pytest

from benchmarks.kernel_static.roofline_model import H100, looped_s, programs_per_multiprocessor, search_s, turn

KERNEL = {
    "registers": 128,
    "shared_bytes": 50 << 10,
    "num_warps": 4,
    "num_stages": 3,
    "loop": {"tensor_flop": 0.0, "vector_flop": 0.0, "load_bytes": 32_768.0, "exponentials": 0.0},
}
PRODUCTS = KERNEL | {"loop": {"tensor_flop": 4e6, "vector_flop": 1e5, "load_bytes": 16_384.0, "exponentials": 8192.0}}


@pytest.mark.parametrize(
    ("change", "programs"),
    [
        ({}, 4),  # 65,536 / (128 x 128)
        ({"registers": 64, "shared_bytes": 50 << 10}, 4),  # 227 / 51
        ({"registers": 129}, 3),  # registers are given by 8 to a thread
        ({"registers": 16, "shared_bytes": 0}, 16),  # 2048 threads
        ({"registers": 255, "num_warps": 8}, 1),
    ],
)
def test_what_fits_is_bound_by_registers_shared_memory_or_threads(change: dict[str, int], programs: int) -> None:
    assert programs_per_multiprocessor(KERNEL | change) == programs


def test_one_program_adds_up_what_several_overlap() -> None:
    several, one = turn(PRODUCTS), turn(PRODUCTS | {"registers": 255, "num_warps": 8})

    assert several.seconds == max(several.tensor_s, several.exponential_s, several.vector_s)
    assert one.seconds == pytest.approx(one.tensor_s + one.exponential_s + one.vector_s)
    assert several.bound == "tensor"
    assert several.exponential_s == pytest.approx(8192 / (16 * 1.755e9))


def test_bytes_in_flight_are_those_of_all_programs_and_stages_ahead() -> None:
    assert turn(KERNEL).bytes_in_flight == 4 * 2 * 32_768


def test_a_search_reads_every_row_once_and_pays_for_its_launches() -> None:
    seconds = search_s(KERNEL, num_rows=1_000_000, rows_per_turn=128, beside_bytes=0.0, num_launches=10)

    assert seconds == pytest.approx(256e6 / (0.9 * 3.35e12) + 10 * H100.launch_s)


def test_turns_are_spread_over_all_multiprocessors() -> None:
    assert looped_s(PRODUCTS, turns=1320) == pytest.approx(10 * turn(PRODUCTS).seconds)
