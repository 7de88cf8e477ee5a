"""The figures and the page of the model, from the current record."""

import json

from benchmarks.kernel_resources import GOLDEN
from benchmarks.kernel_roofline import NOTE, rows_of, written


def test_every_figure_says_that_it_is_modelled_and_the_page_that_nothing_was_timed() -> None:
    kernels = json.loads(GOLDEN.read_text())["sm_90"]
    rows = rows_of(kernels)
    page = written(kernels, rows)

    assert {"topk_fp16_floor_ratio", "topk_int8_floor_ratio", "loss_floor_ratio"} <= {row.metric for row in rows}
    assert all("model" in row.unit or "floor" in row.unit for row in rows)
    assert NOTE in page
    assert page.count("<svg") == 1
