"""The demo as a benchmark: quality, time, speed and memory of one run of `twotower demo --once`."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Row, write_report

OUT = Path("build/bench/demo-run")


def main() -> int:
    """Run the demo in a separate process and report. Exit status 1 when a figure misses its limit."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "twotower.cli", "demo", "--once", "--out", str(OUT)], check=True)
    rows = rows_of(json.loads((OUT / "report.json").read_bytes()), time.monotonic() - started)
    write_report("demo", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def rows_of(report: dict[str, Any], total_s: float) -> list[Row]:
    """The figures of a demo's report.json. The counting baselines have no limits, because the model is compared with them."""
    test = report["quality"]["test"]
    personal = test["personal_frequency"]["recall@10"]
    rows = [
        Row(metric="demo_recall10", value=test["model"]["recall@10"], unit="", better="higher", must=personal, goal=0.22),
        Row(metric="demo_ndcg10", value=test["model"]["ndcg@10"], unit="", better="higher"),
        Row(metric="demo_set_loss", value=test["model"]["set_loss"], unit="nats", better="lower"),
        Row(metric="embedder_share", value=report["parameters"]["embedder_share"], unit="", better="lower", must=0.022),
        Row(metric="train_s", value=report["seconds"]["training"], unit="s", better="lower", must=240.0),
        Row(metric="demo_s", value=total_s, unit="s", better="lower", must=480.0),
        Row(metric="demo_peak_gib", value=report["peak_memory_gib"], unit="GiB", better="lower", must=4.0),
        Row(metric="items_embedded_per_s", value=report["items_embedded_per_s"], unit="items/s", better="higher"),
        Row(metric="recommend_p50_ms", value=report["latency_ms"]["p50"], unit="ms", better="lower"),
        Row(metric="recommend_p99_ms", value=report["latency_ms"]["p99"], unit="ms", better="lower"),
    ]
    for ranker in ("popularity", "personal_frequency"):
        for metric in ("recall@10", "ndcg@10"):
            name = f"{ranker}_{metric.replace('@', '')}"
            rows.append(Row(metric=name, value=test[ranker][metric], unit="", better="higher"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
