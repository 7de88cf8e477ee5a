"""The launch configuration of each kernel for each target: block sizes (by constexpr name), warps and stages.

A launcher reads its configuration, unless a test passes another with small blocks:

    options = options or configuration("rms_norm", current_target())
    rms_norm_kernel[(triton.cdiv(num_rows, options["BLOCK_T"]),)](x_TD, ..., **options)

Configurations follow static rules until a GPU has timed them: no spills, shared memory within the target's limit, 128-bit
loads, the most bytes in flight. `benchmarks/kernel_resources.py` compiles each for its target and compares the resources with
the recorded ones.
"""

from functools import cache
from typing import Literal, get_args

from twotower.kernels.dispatch import triton

Target = Literal["sm_80", "sm_90", "sm_100", "gfx942"]
TARGETS: tuple[Target, ...] = get_args(Target)


def _staged(options: dict[str, int], nvidia: int, amd: int) -> dict[Target, dict[str, int]]:
    return {target: options | {"num_stages": amd if target == "gfx942" else nvidia} for target in TARGETS}


TABLE: dict[str, dict[Target, dict[str, int]]] = {
    # _few: up to 16 queries. _masked: the words that say whether a tile is loaded come two stages before it.
    "group_bounds": _staged({"BLOCK_Q": 64, "num_warps": 4}, nvidia=3, amd=2),
    "group_bounds_few": _staged({"BLOCK_Q": 16, "num_warps": 4}, nvidia=3, amd=2),
    "group_bounds_masked": _staged({"BLOCK_Q": 64, "num_warps": 4}, nvidia=5, amd=3),
    "group_bounds_masked_few": _staged({"BLOCK_Q": 16, "num_warps": 4}, nvidia=5, amd=3),
    "highest": {target: {"PART": 4096, "num_warps": 8} for target in TARGETS},
    "best_keys": {target: {"PART": 4096, "num_warps": 16} for target in TARGETS},
    "unpack_keys": {target: {"num_warps": 4} for target in TARGETS},
    "rescore": {target: {"num_warps": 8} for target in TARGETS},
    "candidate_gradient": {
        "sm_80": {"BLOCK_Q": 32, "BLOCK_C": 32, "num_warps": 4, "num_stages": 3},
        "sm_90": {"BLOCK_Q": 64, "BLOCK_C": 64, "num_warps": 8, "num_stages": 3},
        "sm_100": {"BLOCK_Q": 64, "BLOCK_C": 64, "num_warps": 8, "num_stages": 3},
        "gfx942": {"BLOCK_Q": 32, "BLOCK_C": 32, "num_warps": 4, "num_stages": 2},
    },
    "candidate_gradient_float32": {target: {"BLOCK_Q": 16, "BLOCK_C": 32, "num_warps": 4, "num_stages": 2} for target in TARGETS},
    "softmax_pairs": {target: {"BLOCK_C": 32, "num_warps": 4, "num_stages": 2} for target in TARGETS},
    "softmax_scan": {
        "sm_80": {"BLOCK_Q": 128, "BLOCK_C": 64, "num_warps": 8, "num_stages": 2},
        "sm_90": {"BLOCK_Q": 128, "BLOCK_C": 64, "num_warps": 8, "num_stages": 3},
        "sm_100": {"BLOCK_Q": 128, "BLOCK_C": 64, "num_warps": 8, "num_stages": 3},
        "gfx942": {"BLOCK_Q": 64, "BLOCK_C": 32, "num_warps": 8, "num_stages": 2},
    },
    "softmax_scan_float32": {
        "sm_80": {"BLOCK_Q": 16, "BLOCK_C": 64, "num_warps": 8, "num_stages": 2},
        "sm_90": {"BLOCK_Q": 16, "BLOCK_C": 64, "num_warps": 8, "num_stages": 2},
        "sm_100": {"BLOCK_Q": 16, "BLOCK_C": 64, "num_warps": 8, "num_stages": 2},
        "gfx942": {"BLOCK_Q": 32, "BLOCK_C": 16, "num_warps": 4, "num_stages": 2},
    },
    "softmax_scan_popularity": {
        "sm_80": {"BLOCK_Q": 32, "BLOCK_C": 32, "num_warps": 8, "num_stages": 3},
        "sm_90": {"BLOCK_Q": 64, "BLOCK_C": 32, "num_warps": 8, "num_stages": 3},
        "sm_100": {"BLOCK_Q": 64, "BLOCK_C": 32, "num_warps": 8, "num_stages": 2},
        "gfx942": {"BLOCK_Q": 32, "BLOCK_C": 16, "num_warps": 4, "num_stages": 2},
    },
    "event_input": {target: {"BLOCK_SIZE": 512, "num_warps": 4, "num_stages": 1} for target in TARGETS},
    "past_scores": {target: {"BLOCK_M": 16, "num_warps": 4, "num_stages": 1} for target in TARGETS},
    "queries": {target: {"BLOCK_SIZE": 8192, "num_warps": 8, "num_stages": 1} for target in TARGETS},
    "query_input": {target: {"BLOCK_SIZE": 4096, "num_warps": 8, "num_stages": 1} for target in TARGETS},
    "gather_pool": {target: {"BLOCK_SIZE": 2048, "num_warps": 4, "num_stages": 2} for target in TARGETS},
    "packed_attention": {
        "sm_80": {"BLOCK_ROWS": 64, "BLOCK_KEYS": 64, "num_warps": 4, "num_stages": 2},
        "sm_90": {"BLOCK_ROWS": 64, "BLOCK_KEYS": 64, "num_warps": 4, "num_stages": 2},
        "sm_100": {"BLOCK_ROWS": 128, "BLOCK_KEYS": 64, "num_warps": 8, "num_stages": 2},
        "gfx942": {"BLOCK_ROWS": 64, "BLOCK_KEYS": 64, "num_warps": 4, "num_stages": 2},
    },
    "paged_attention": {target: {"BLOCK_ROWS": 64, "BLOCK_KEYS": 64, "num_warps": 4, "num_stages": 2} for target in TARGETS},
    # One new event of each history: so few rows that a block of them holds one event's heads.
    "paged_attention_one": {target: {"BLOCK_ROWS": 16, "BLOCK_KEYS": 64, "num_warps": 4, "num_stages": 2} for target in TARGETS},
    # _few: up to 64 rows. TILE_BYTES: of the tile of weights that is loaded at once.
    "paged_projection": _staged({"BLOCK_T": 64, "BLOCK_U": 256, "TILE_BYTES": 16384, "num_warps": 8}, nvidia=3, amd=2),
    "paged_projection_few": _staged({"BLOCK_T": 16, "BLOCK_U": 32, "TILE_BYTES": 4096, "num_warps": 4}, nvidia=3, amd=2),
    "linear_norm": _staged({"BLOCK_SIZE": 8192, "TILE_BYTES": 16384, "num_warps": 4}, nvidia=3, amd=2),
    "linear_norm_few": _staged({"BLOCK_SIZE": 2048, "TILE_BYTES": 32768, "num_warps": 4}, nvidia=3, amd=2),
    "linear_swiglu": _staged({"BLOCK_T": 128, "BLOCK_U": 64, "TILE_BYTES": 8192, "num_warps": 8}, nvidia=3, amd=2),
    "linear_swiglu_few": _staged({"BLOCK_T": 16, "BLOCK_U": 32, "TILE_BYTES": 8192, "num_warps": 4}, nvidia=3, amd=2),
    "rms_norm": {target: {"BLOCK_SIZE": 2048, "num_warps": 4, "num_stages": 1} for target in TARGETS},
    "rotate": {target: {"BLOCK_ROWS": 64, "num_warps": 4, "num_stages": 1} for target in TARGETS},
    "swiglu": {target: {"BLOCK_T": 8, "BLOCK_F": 256, "num_warps": 4, "num_stages": 1} for target in TARGETS},
}


def configuration(kernel: str, target: Target) -> dict[str, int]:
    """The configuration of a kernel for a target, as keyword arguments of its launch."""
    return dict(TABLE[kernel][target])


@cache
def current_target() -> Target:
    """The target that Triton compiles for. The interpreter uses that of sm_90, other GPU generations that of sm_80."""
    if triton.knobs.runtime.interpret:
        return "sm_90"
    target = triton.runtime.driver.active.get_current_target()
    if target.backend == "hip":
        return "gfx942"
    generations: dict[int, Target] = {9: "sm_90", 10: "sm_100"}
    return generations.get(target.arch // 10, "sm_80")
