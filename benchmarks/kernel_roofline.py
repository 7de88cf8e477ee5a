"""The times that the kernels could reach on an H100, by a static model of their compiled code: figures, and a page with a plot.

Nothing is timed here. The loops come from the record of `benchmarks/kernel_resources.py`. The assumptions of the model are
printed with its results.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from benchmarks.kernel_resources import GOLDEN
from benchmarks.kernel_static.launches import SEARCH, default_model, launches
from benchmarks.kernel_static.roofline_model import H100, kernel_s, looped_s, search_s, streamed_s, turn
from benchmarks.report import Row, write_report
from service.kernels.catalogue import group_rows
from twotower.model.config import ModelConfig
from twotower.report import page
from twotower.report.charts import log_ticks
from twotower.report.numbers import plain
from twotower.report.parts import Table, Verdict
from twotower.report.svg import FAINT, FIRST, INK, figure

PAGE = Path("build/bench/kernel_roofline.html")
TEMPLATE = Path(__file__).with_name("kernel_roofline.html")
NUM_ROWS, WIDTH = 1_000_000, 128
NUM_QUERIES, NUM_CANDIDATES = 32_768, 1_000_000
SEARCHES = {"fp16": ("top-k 128, 1 query", 2 * WIDTH, 1.5), "int8": ("top-k int8 128, 1 query", WIDTH, 1.8)}
SCAN, LOSS, LOSS_MUST = "group_bounds", "frozen softmax bf16 128/scan_kernel", 2.2
NUM_REQUESTS, APPEND_MUST, COLD_MUST = 32, 2.0, 1.6
APPEND_SIZES = {"1e6": 1_000_000, "1e7": 10_000_000}  # items
# Cases of `kernel_static/cases.py` with the shapes of a cold batch.
ATTENTION = "paged 32, 4 heads share 2/paged_attention_kernel"
PROJECTION = "projection 32, 4096 events/paged_projection_kernel"
LINEAR_NORM, LINEAR_SWIGLU = (f"feed-forward 128, 4096 events/{name}_kernel" for name in ("linear_norm", "linear_swiglu"))
NOTE = "A model, not a measurement: no kernel has been timed on a GPU yet."

Kernels = Mapping[str, Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:  # noqa: ARG001 - the signature of all benchmarks
    """Model, report, draw. Exit status 1 when a figure misses its limit."""
    kernels: Kernels = json.loads(GOLDEN.read_text())["sm_90"]
    rows = rows_of(kernels)
    print(NOTE)
    for name, value in plain(asdict(H100)).items():
        print(f"  {name}: {value}")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(written(kernels, rows))
    write_report("kernel_roofline", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def rows_of(kernels: Kernels) -> list[Row]:
    """Modelled times of the most important ops, as ratios to the least times that the peaks of the GPU allow."""
    rows = []
    for name, (case, row_bytes, must) in SEARCHES.items():
        kernel = kernels[f"{case}/{SCAN}"]
        floor_s = NUM_ROWS * row_bytes / H100.memory_bytes_s
        written_bytes = 4 * NUM_ROWS / kernel["constants"]["GROUP"]
        model_s = search_s(kernel, NUM_ROWS, kernel["constants"]["BLOCK_N"], written_bytes, kernel["launches"])
        rows += [
            Row(metric=f"topk_{name}_model_us", value=1e6 * model_s, unit="us, model", better="lower"),
            Row(metric=f"topk_{name}_floor_ratio", value=model_s / floor_s, unit="x memory floor", better="lower", must=must),
        ]
    kernel = kernels[LOSS]
    turns = NUM_QUERIES / kernel["constants"]["BLOCK_Q"] * NUM_CANDIDATES / kernel["constants"]["BLOCK_C"]
    floor_s, model_s = 4.0 * NUM_QUERIES * NUM_CANDIDATES * WIDTH / H100.tensor_flop_s, looped_s(kernel, turns)
    return [
        *rows,
        *append_rows(kernels),
        *cold_rows(kernels),
        Row(metric="loss_model_ms", value=1e3 * model_s, unit="ms, model", better="lower"),
        Row(metric="loss_floor_ratio", value=model_s / floor_s, unit="x tensor floor", better="lower", must=LOSS_MUST),
    ]


def append_rows(kernels: Kernels) -> list[Row]:
    """The modelled time of a batch of 32 requests with one new event each, of 256, and its ratio to the time of its bytes alone.

    The bytes are weights and pages once, and the codes of all items. Every kernel takes its launch in a graph beside them; for
    `stream_ratio`, its launch in a stream.
    """
    model, kernel = default_model(), kernels[SEARCH]
    counted, num_layers = launches(model)[0], model.config.num_layers
    once = model.num_bytes + NUM_REQUESTS * model.pool.most_pages * model.pool.page_bytes
    rows_per_turn = kernel["constants"]["BLOCK_N"]
    num_kernels = num_layers * counted.most_of_a_layer + counted.beside + counted.search
    rows = [Row(metric="append_kernels", value=num_kernels, unit="kernels, model", better="lower")]
    for size, num_items in APPEND_SIZES.items():
        floor_s = (once + num_items * kernel["loop"]["load_bytes"] / rows_per_turn) / H100.memory_bytes_s
        bounds_bytes = 4 * NUM_REQUESTS * num_items / group_rows(num_items, kernel["constants"]["HEAD"])
        model_s = streamed_s(once) + search_s(kernel, num_items, rows_per_turn, bounds_bytes, num_kernels, H100.graph_launch_s)
        slower_s, unit = model_s + num_kernels * (H100.launch_s - H100.graph_launch_s), "x memory floor"
        rows += [
            Row(metric=f"append_{size}_model_us", value=1e6 * model_s, unit="us, model", better="lower"),
            Row(metric=f"append_{size}_floor_ratio", value=model_s / floor_s, unit=unit, better="lower", must=APPEND_MUST),
            Row(metric=f"append_{size}_stream_ratio", value=slower_s / floor_s, unit=unit, better="lower"),
        ]
    return rows


def cold_rows(kernels: Kernels) -> list[Row]:
    """The modelled time of 32 histories of 256 events read at once, without the search, and its ratio to its products' time.

    The products are those of the layers and of attention to earlier events, at the peak of the tensor cores. Each kernel takes
    as long as its loop or, if that is shorter, its launch: in a stream, because such a batch is not a graph.
    """
    model = default_model()
    config, counted = model.config, launches(model)[1]
    window, width, num_layers = config.window, config.width, config.num_layers
    num_heads, head_width = config.num_heads + 2 * config.num_kv_heads, config.width // config.num_heads
    num_events = NUM_REQUESTS * window
    num_units = num_heads * head_width + width + 3 * config.ffn_width
    flop = num_layers * num_events * 2.0 * width * (num_units + window + 1)  # a query and a mean over (window + 1) / 2 events
    projection, attention, norm, unit = (kernels[name] for name in (PROJECTION, ATTENTION, LINEAR_NORM, LINEAR_SWIGLU))
    events_s = [
        kernel_s(projection, turns(projection, num_events, width) * -(-num_heads // projection["constants"]["BLOCK_H"])),
        kernel_s(attention, NUM_REQUESTS * config.num_kv_heads * attention_turns(attention, config)),
        kernel_s(norm, turns(norm, num_events, width)),
        kernel_s(unit, turns(unit, num_events, width) * -(-config.ffn_width // unit["constants"]["BLOCK_U"])),
        kernel_s(norm, turns(norm, num_events, config.ffn_width)),
    ]
    assert len(events_s) == counted.most_of_a_layer
    floor_s, model_s = flop / H100.tensor_flop_s, num_layers * sum(events_s) + counted.beside * H100.launch_s
    num_kernels = num_layers * len(events_s) + counted.beside
    return [
        Row(metric="cold_kernels", value=num_kernels, unit="kernels, model", better="lower"),
        Row(metric="cold_model_us", value=1e6 * model_s, unit="us, model", better="lower"),
        Row(metric="cold_launches_us", value=1e6 * num_kernels * H100.launch_s, unit="us, model", better="lower"),
        Row(metric="cold_floor_ratio", value=model_s / floor_s, unit="x tensor floor", better="lower", must=COLD_MUST),
    ]


def turns(kernel: Mapping[str, Any], num_rows: int, num_read: int) -> int:
    """Iterations of a linear layer's kernel over rows and over what it reads, for one block of its units."""
    constants = kernel["constants"]
    blocks: int = -(-num_rows // constants["BLOCK_T"]) * -(-num_read // constants["BLOCK_F"])
    return blocks


def attention_turns(kernel: Mapping[str, Any], config: ModelConfig) -> int:
    """Iterations of attention over one whole history and one group of heads: each block of rows reads up to its last event."""
    constants, shared = kernel["constants"], config.num_heads // config.num_kv_heads
    stops = range(constants["BLOCK_ROWS"], config.window * shared + 1, constants["BLOCK_ROWS"])
    return sum(-(-stop // shared // constants["BLOCK_KEYS"]) for stop in stops)


def written(kernels: Kernels, rows: Sequence[Row]) -> str:
    """The HTML page."""
    columns = (
        "kernel",
        "limited by",
        "iteration, us",
        "FLOP/byte",
        "programs",
        "KiB in flight",
        "registers",
        "shared KiB",
        "matrix",
    )
    lines = [line(name, kernel) for name, kernel in kernels.items()]
    figures = [(row.metric, f"{row.value:.4g} {row.unit}", "" if row.must is None else f"at most {row.must}") for row in rows]
    missed = [row.metric for row in rows if not row.meets_must]
    says = f"The model misses {len(missed)} limits" if missed else "The model meets every limit"
    about = "A point is one iteration of a hot loop; the lines are what memory, cache and tensor cores allow."
    content = {
        "verdict": Verdict("worse" if missed else "better", says, [NOTE, *missed]),
        "figures": Table("Results of the model, and their limits.", ("figure", "value", "limit"), figures),
        "roofline": figure("roofline", "Roofline", about, lambda axes: plot(axes, kernels)),
        "kernels": Table("Programs on a multiprocessor, and one iteration of their hot loop.", columns, lines),
        "facts": plain(asdict(H100)),
    }
    return page.render(TEMPLATE, "Kernels on an H100: a static model", content)


def line(name: str, kernel: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of the table of kernels."""
    of_turn, (flop, num_bytes) = turn(kernel), work(kernel)
    intensity = flop / num_bytes if num_bytes else 0.0
    return (
        name,
        of_turn.bound,
        f"{1e6 * of_turn.seconds:.3g}",
        f"{intensity:.3g}",
        str(of_turn.programs),
        f"{of_turn.bytes_in_flight / 1024:.0f}",
        str(kernel["registers"]),
        f"{kernel['shared_bytes'] / 1024:.0f}",
        str(kernel["matrix"]),
    )


def work(kernel: Mapping[str, Any]) -> tuple[float, float]:
    """Operations and bytes of a loop iteration."""
    loop = kernel["loop"]
    return loop["tensor_flop"] + loop["vector_flop"], loop["load_bytes"]


def plot(axes: Axes, kernels: Kernels) -> None:
    """Plot every loop below the limits of memory, cache and tensor cores."""
    low, high, peak = 0.25, 4096.0, H100.tensor_flop_s / 1e12
    for bandwidth, label in ((H100.memory_bytes_s, "memory"), (H100.cache_bytes_s, "cache")):
        ridge = H100.tensor_flop_s / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth / 1e12, peak, peak], color=FAINT, linewidth=0.8)
        axes.annotate(label, (low, low * bandwidth / 1e12), color=FAINT, fontsize=7)
    for kernel in kernels.values():
        flop, num_bytes = work(kernel)
        if flop and num_bytes:
            reached = flop * H100.multiprocessors / turn(kernel).seconds / 1e12
            axes.plot(flop / num_bytes, reached, "o", color=FIRST if kernel["matrix"] else INK, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    log_ticks(axes.xaxis)
    log_ticks(axes.yaxis)
    axes.set_xlabel("operations per requested byte")
    axes.set_ylabel("TFLOP/s, model")


if __name__ == "__main__":
    sys.exit(main())
