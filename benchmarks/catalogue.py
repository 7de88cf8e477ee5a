"""The nightly job: its embedding speed, the growth of its time and memory, and the cost of a night with few changes.

Catalogues are made up (titles, brands, categories, prices), and towers are untrained, because time and memory do not depend on
what they learned. Every build runs in a separate process. Its time does not include the start of Python, nor its memory what the
imports take. There are two bundles: `small` is that of the demo (its embedder has 2 % of 0.8M parameters), and `large` is
compute-optimal for 1e18 FLOPs (2 % of 39M). The benchmark `search` is run here too.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import search
from benchmarks.large.measure import measure_large
from benchmarks.loss_memory import memory
from benchmarks.report import DIRECTORY, Row, merged, read_rows, write_report
from benchmarks.training_throughput import GIGA, gemm_gflops
from embedder_cache.build import build_release
from embedder_cache.checks.gates import Limits
from training.recipes.budget import size_model
from training.recipes.recipes import demo
from twotower.artefacts.bundle import Bundle, load_bundle, save_bundle
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import EventColumns, ItemColumns, Schema
from twotower.model.catalogue import embed_table, fit_item_spec, in_parallel, stream_items
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.planning.compute_optimal import compute_optimal
from twotower.planning.sizes import shape_for
from twotower.progress import step

SIZES = (10_000, 100_000, 1_000_000)
CHANGED = 0.01
ROUNDS = 3
ENCODING_ROUNDS = 7  # short ones, because another program beside one of them spoils it
WHERE = DIRECTORY / "catalogue"
COLUMNS = ItemColumns(
    title="title",
    features={"title": "text", "brand": "categorical", "category": "categorical", "maker": "categorical", "price": "numeric"},
)
LARGE_FLOPS = 1e18


@dataclass(frozen=True, slots=True)
class Built:
    """One run of the nightly job."""

    seconds: float
    peak_bytes: int  # above the interpreter with everything imported
    num_embedded: int
    written_bytes: int  # by the process, to any disk


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and write build/bench/catalogue.json. Exit status 1 when a limit is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.catalogue", description=main.__doc__)
    parser.add_argument("--build", nargs=3, metavar=("BUNDLE", "ITEMS", "STORE"), help="one build; the benchmark calls itself")
    parser.add_argument("--only", choices=SECTIONS, help="one section alone; its rows replace those of the last report")
    parser.add_argument("--large", action="store_true", help="ten million items from end to end: 20 minutes, 24 GB of disk")
    args = parser.parse_args(argv)
    if args.build:
        print(json.dumps(asdict(build_here(*map(Path, args.build)))))
        return 0
    if args.large:
        write_catalogue(items_file(SIZES[0], 0.0), SIZES[0], 0.0)
        rows = merged(read_rows("catalogue"), measure_large(make_bundle(WHERE / "small", "small"), build_apart, WHERE))
        write_report("catalogue", rows)
        return 0 if all(row.meets_must for row in rows) else 1
    for size in SIZES[:2] if args.only in ("encoding", "search") else SIZES:
        for changed in (0.0, CHANGED):
            write_catalogue(items_file(size, changed), size, changed)
    bundles = {name: make_bundle(WHERE / name, name) for name in ("small", "large")}
    rows = read_rows("catalogue") if args.only else []
    for section in [args.only] if args.only else SECTIONS:
        rows = merged(rows, SECTIONS[section](bundles))
        write_report("catalogue", rows)  # after each, so that a run cut short keeps what it measured
    return 0 if all(row.meets_must for row in rows) else 1


def encoding(bundle: Bundle, suffix: str) -> list[Row]:
    """The speed from raw rows to vectors, and the share of the speed at which this machine could do the matrix products."""
    model, embedder = bundle.towers.config.model, bundle.towers.embedder
    flops = 2 * (model.embedder_input * model.embedder_hidden + model.embedder_hidden * model.width)
    tables = list(stream_items(items_file(SIZES[1], 0.0), COLUMNS))
    fractions, rates = [], []
    for _ in range(ENCODING_ROUNDS):
        allowed = gemm_gflops() * GIGA / flops
        started = time.perf_counter()
        num_embedded = sum(map(len, in_parallel(lambda t: embed_table(t, embedder, model.item_spec, model.table_rows), tables)))
        rates.append(num_embedded / (time.perf_counter() - started))
        fractions.append(rates[-1] / allowed)
    bounds = (None, None) if suffix else (0.7, 0.85)
    return [
        Row(
            metric=f"encode_gemm_fraction{suffix}",
            value=statistics.median(fractions),
            unit="of GEMM",
            better="higher",
            must=bounds[0],
            goal=bounds[1],
        ),
        Row(metric=f"encode_items_per_s{suffix}", value=statistics.median(rates), unit="items/s", better="higher"),
        Row(metric=f"encode_flops_per_item{suffix}", value=flops, unit="FLOP", better="lower"),
    ]


def growth(bundle: Path) -> list[Row]:
    """Time and memory of full builds with 10^4, 10^5 and 10^6 items."""
    built = {size: full_build(bundle, size) for size in SIZES}
    exponents = [slope(built, "seconds"), slope(built, "peak_bytes")]
    rows = [
        Row(metric="rss_1m_gib", value=built[SIZES[-1]].peak_bytes / 2**30, unit="GiB", better="lower", must=1.5),
        Row(metric="growth_exponent", value=max(exponents), unit="of items", better="lower", must=1.05),
    ]
    for size, run in built.items():
        rows.append(Row(metric=f"build_s_{size}", value=run.seconds, unit="s", better="lower"))
        rows.append(Row(metric=f"build_mb_{size}", value=run.peak_bytes / 1e6, unit="MB", better="lower"))
    return rows


def slope(built: dict[int, Built], figure: str) -> float:
    """Exponent of growth from 10^5 to 10^6 items. The fixed cost of a build makes it smaller."""
    small, large = SIZES[-2:]
    return math.log(getattr(built[large], figure) / getattr(built[small], figure)) / math.log(large / small)


def incremental(bundle: Path, suffix: str) -> list[Row]:
    """The time of a build after 1 % of 10^6 items changed, and the bytes that it writes, as shares of a full build."""
    size, seconds, written, full_s = SIZES[-1], [], [], []
    for _ in range(ROUNDS):
        store = fresh(WHERE / "store")
        full = build_apart(bundle, items_file(size, 0.0), store)
        again = build_apart(bundle, items_file(size, CHANGED), store)
        assert again.num_embedded == round(CHANGED * size), again
        seconds.append(again.seconds / full.seconds)
        written.append(again.written_bytes / max(full.written_bytes, 1))
        full_s.append(full.seconds)
    shares = {"fraction": (seconds, 0.3, 0.1), "bytes": (written, 0.1, 0.03)}
    rows = [
        Row(
            metric=f"incremental_{what}{suffix}",
            value=statistics.median(values),
            unit="of a full build",
            better="lower",
            must=None if suffix else must,
            goal=None if suffix else goal,
        )
        for what, (values, must, goal) in shares.items()
    ]
    return [*rows, Row(metric=f"full_build_s{suffix}", value=statistics.median(full_s), unit="s", better="lower")]


def full_build(bundle: Path, size: int) -> Built:
    """A build of all items into an empty store."""
    return build_apart(bundle, items_file(size, 0.0), fresh(WHERE / "store"))


def build_apart(bundle: Path, items: Path, store: Path) -> Built:
    """One build in a separate process."""
    command = [sys.executable, "-m", "benchmarks.catalogue", "--build", str(bundle), str(items), str(store)]
    with step(f"build {items.stem} with {bundle.name}"):
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Built(**json.loads(run.stdout))


def build_here(bundle: Path, items: Path, store: Path) -> Built:
    """One build in this process."""
    loaded = load_bundle(bundle)
    baseline, written = memory("VmRSS"), written_bytes()
    started = time.perf_counter()
    # Untrained towers answer golden queries by chance, and a noisy machine is no reason to publish nothing.
    limits = Limits(golden_overlap=0.0, search_p99_ms=float("inf"))
    published = build_release(loaded, items, store, None, limits=limits)
    seconds = time.perf_counter() - started
    return Built(seconds, memory("VmHWM") - baseline, published.num_embedded, written_bytes() - written)


def written_bytes() -> int:
    """Bytes that this process has written to disks so far, also where they are not on the disk yet."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["write_bytes"])


def searching() -> list[Row]:
    """The benchmark `search`, on made-up vectors."""
    with step("search 92,000 items"):
        return search.rows_of(search.measure(*search.synthetic()))


def fresh(store: Path) -> Path:
    """An empty store."""
    shutil.rmtree(store, ignore_errors=True)
    return store


def items_file(size: int, changed: float) -> Path:
    """The file of a catalogue."""
    return WHERE / f"items-{size}{'-changed' if changed else ''}.parquet"


def write_catalogue(path: Path, num_items: int, changed: float) -> None:
    """Write a made-up catalogue. A share `changed` of the items has another price."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(20_000)])
    picked = np.minimum(rng.zipf(1.3, (num_items, 5)) - 1, len(words) - 1)
    prices = np.round(rng.lognormal(1.5, 0.8, num_items), 2)
    prices[rng.permutation(num_items)[: round(changed * num_items)]] += 1.0
    columns = {
        "item_id": pa.array([f"sku-{i:08d}" for i in rng.permutation(num_items)]),
        "title": pa.array([" ".join(row) for row in words[picked]]),
        "brand": pa.array(names("brand", 5_000)[rng.zipf(1.5, num_items) % 5_000]),
        "category": pa.array(names("category", 300)[rng.integers(0, 300, num_items)]),
        "maker": pa.array(names("maker", 2_000)[rng.integers(0, 2_000, num_items)]),
        "price": pa.array(prices),
    }
    pq.write_table(pa.table(columns), path)


def names(kind: str, number: int) -> "np.ndarray[tuple[int], np.dtype[np.str_]]":
    """Made-up names."""
    return np.array([f"{kind}-{i}" for i in range(number)])


def make_bundle(path: Path, name: str) -> Bundle:
    """Untrained towers of one of the two sizes."""
    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(0)
    shape = shape_for(compute_optimal(LARGE_FLOPS).parameters, share=0.02)._asdict() if name == "large" else {}
    config = msgspec.structs.replace(demo(), **shape)
    context = FeatureSpec(fields=(FieldSpec(name="event_type", kind="categorical"),))
    model = size_model(config, fit_item_spec(items_file(SIZES[0], 0.0), COLUMNS), context)
    popularity = pa.table({"item_id": pa.array(["none"]), "log_popularity": pa.array([[-9.0] * model.num_popularity])})
    schema = Schema(events=EventColumns(), items=COLUMNS)
    save_bundle(path, build_embedder(model), Contextualizer(model), model, config.half_lives_days, schema, popularity, {}, {})
    return load_bundle(path)


SECTIONS: dict[str, Callable[[dict[str, Bundle]], list[Row]]] = {
    "encoding": lambda bundles: encoding(bundles["large"], "") + encoding(bundles["small"], "_small"),
    "growth": lambda bundles: growth(bundles["small"].path),
    "incremental": lambda bundles: incremental(bundles["large"].path, ""),
    "incremental_small": lambda bundles: incremental(bundles["small"].path, "_small"),
    "search": lambda _: searching(),
}

if __name__ == "__main__":
    sys.exit(main())
