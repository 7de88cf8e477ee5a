"""The ops on one CPU thread: the time of each beside the time of its competitor. For GPUs see `benchmarks/gpu.py`.

Contenders take turns, so that other load on the machine affects all of them; ratios are of medians. Each section can be run
alone; its rows then replace those of the last report. The rows of `kernel_mutants.py`, `kernel_resources.py` and
`kernel_roofline.py` are added from their last reports.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
import torch

from benchmarks.kernel_races import loss_gemm
from benchmarks.report import Row, merged, read_rows, write_report
from benchmarks.search import opened, take_turns

faiss: Any = faiss_module

NUM_ITEMS, WIDTH, RESULTS, BATCH = 100_000, 128, 100, 64
JOINED = ("kernel_mutants", "kernel_resources", "kernel_roofline")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report. Exit status 1 when a figure misses its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=main.__doc__)
    parser.add_argument("--only", choices=SECTIONS, help="one section alone")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows = read_rows("kernels") if args.only else []
    for section in [args.only] if args.only else SECTIONS:
        rows = merged(rows, SECTIONS[section]())
    for report in JOINED:
        rows = merged(rows, read_rows(report))
    write_report("kernels", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def top_k() -> list[Row]:
    """Exact search of Gaussian rows. They vary along all axes, so no index can skip work: the matrix product decides."""
    rng = np.random.default_rng(0)
    vectors_NV = rng.standard_normal((NUM_ITEMS, WIDTH), dtype=np.float32)
    theirs = faiss.IndexFlatIP(WIDTH)
    theirs.add(vectors_NV)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        ours = opened(Path(directory), vectors_NV, WIDTH, "flat")
        for num_queries, must in ((1, 0.8), (BATCH, 0.25)):
            queries_QV = rng.standard_normal((num_queries, WIDTH), dtype=np.float32)
            ours_s, theirs_s = take_turns(
                [lambda q=queries_QV: ours.search(q, RESULTS), lambda q=queries_QV: theirs.search(q, RESULTS)]  # type: ignore[misc]
            )
            name = f"topk_b{num_queries}"
            rows += [
                Row(metric=f"{name}_ratio", value=ours_s / theirs_s, unit="of FAISS flat", better="lower", must=must),
                Row(metric=f"{name}_ms", value=1000 * ours_s, unit="ms", better="lower"),
                Row(metric=f"{name}_faiss_ms", value=1000 * theirs_s, unit="ms", better="lower"),
            ]
    return rows


SECTIONS: dict[str, Callable[[], list[Row]]] = {"topk": top_k, "loss": loss_gemm.rows}


if __name__ == "__main__":
    sys.exit(main())
