"""`twotower evaluate`: evaluate a bundle under one of the protocols, beside the counting baselines."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.device_option import add_device_option

if TYPE_CHECKING:
    from training.data.read import Data
    from twotower.terminal import Cell, TextTable

Results = dict[str, dict[str, float]]


def main(argv: list[str]) -> int:
    """Rank the full catalogue for every held-out query. Seen items stay candidates, except under leave-one-out."""
    parser = argparse.ArgumentParser(prog="twotower evaluate", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--signals", type=Path, help="needed when the bundle was trained with signals")
    protocols = ["next-basket", "next-event", "leave-one-out", "cold-start"]
    parser.add_argument("--protocol", choices=protocols, default="next-basket")
    add_device_option(parser, default="cpu")
    parser.add_argument("--json", action="store_true", help="every metric as JSON on stdout")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write a page: verdict, intervals, kinds of answers")
    args = parser.parse_args(argv)

    from training.data.read import read_data
    from training.evaluation.cold_start import compare_cold, plant_again, planted_items
    from training.evaluation.metrics import BATCH_LOCAL_WARNING, candidate_set
    from training.evaluation.rankers import PROTOCOLS
    from training.evaluation.splits import compare_with_counters
    from twotower.artefacts.bundle import load_bundle
    from twotower.device import choose
    from twotower.errors import DataError

    if args.page is not None:  # needs more than the tables do
        from training.report.evaluation_page import render, render_cold
        from twotower.report.page import save

    device, bundle = choose(args.device), load_bundle(args.bundle)
    towers, config = bundle.towers, bundle.towers.config
    data = read_data(
        args.events,
        args.items,
        towers.schema,
        config.popularity_half_lives_days,
        config.model.context_table_rows,
        config.model.context_spec,
        args.signals,
    )
    if args.protocol == "cold-start":
        planted = plant_again(data, planted_items(args.bundle, bundle.metrics), config.popularity_half_lives_days)
        result = compare_cold(planted, towers, args.items, device)
        report_cold_start(result, args.json)
        if args.page is not None:
            save(args.page, render_cold(args.bundle.name, result, facts_of(args, bundle.manifest.id, data)))
        return 0
    queries = PROTOCOLS[args.protocol](data.log, data.test_from_ms, data.end_ms)
    if not queries:
        raise DataError("nothing to evaluate: no event lies at or after the split's test_from")
    candidates = candidate_set(len(data.item_ids), past_masked=queries[0].mask_past_items)
    result = compare_with_counters(data, towers, args.items, queries, args.protocol, device)
    if args.json:
        told = {"protocol": args.protocol, "candidates": candidates, "batch_local": BATCH_LOCAL_WARNING, "rankers": result}
        print(json.dumps(told, indent=2, allow_nan=False))
    else:
        print_tables(f"{args.protocol}, test part: {candidates}", result)
    if args.page is not None:
        facts = facts_of(args, bundle.manifest.id, data)
        save(args.page, render(args.bundle.name, args.protocol, candidates, result, facts))
    return 0


def facts_of(args: argparse.Namespace, bundle_id: str, data: "Data") -> dict[str, str]:
    """What the page says was evaluated."""
    from twotower.report.numbers import moment_of

    return {
        "bundle": bundle_id,
        "events": str(args.events),
        "items": str(args.items),
        "test part": f"{moment_of(data.test_from_ms)} to {moment_of(data.end_ms)}",
    }


def print_tables(title: str, result: Results) -> None:
    """Print three tables: the headline metrics, recall by kind of answer, and further metrics."""
    from training.evaluation.metrics import BATCH_LOCAL_WARNING
    from twotower.terminal import console

    shown = console()
    for table in (headline_table(title, result), slice_table(result), other_table(result)):
        shown.print(table)
    if (low := result["model"].get("over popularity: unseen_recall@10.low")) is not None:
        ratio, high = (result["model"][f"over popularity: unseen_recall@10{end}"] for end in ("", ".high"))
        shown.print(f"unseen R@10, model over popularity: {ratio:.2f}x, 95 % interval {low:.2f} to {high:.2f}")
    shown.print("unseen: new items, ranked among items that the user never had")
    shown.print("differences: paired 95 % intervals, from resampling users; losses and entropy in nats")
    shown.print(f"batch-local: candidates are the answers of 64 queries; {BATCH_LOCAL_WARNING}")


def report_cold_start(result: Results, as_json: bool) -> None:
    """Print the metrics of planted and other items, and intervals of the model's cold recall minus that of each baseline."""
    from training.evaluation.cold_start import SHOWN
    from twotower.terminal import console

    if as_json:
        told = {"protocol": "cold-start", "candidates": "full catalogue", "rankers": result}
        print(json.dumps(told, indent=2, allow_nan=False))
        return
    others = [ranker for ranker in result if ranker != "model"]
    columns = [*result, *(f"model - {ranker}" for ranker in others)]
    table = new_table("cold-start, test part: full catalogue", "", [column.replace("_", " ") for column in columns])
    for name, label in SHOWN.items():
        gains = (gain_cell(result["model"], ranker, name) for ranker in others)
        table.add_row(label, *(figure(metrics, name) for metrics in result.values()), *gains)
    console().print(table)


def headline_table(title: str, result: Results) -> "TextTable":
    """Headline metrics of every ranker, and the 95 % interval of the model minus each baseline."""
    from twotower.metrics.names import HEADLINE

    table = new_table(title, "ranker", list(HEADLINE.values()))
    for ranker, metrics in result.items():
        table.add_row(ranker.replace("_", " "), *(figure(metrics, name) for name in HEADLINE))
    for ranker in result:
        if ranker != "model":
            cells = (gain_cell(result["model"], ranker, name) for name in HEADLINE)
            table.add_row(f"model - {ranker.replace('_', ' ')}", *cells)
    return table


def gain_cell(model: dict[str, float], ranker: str, name: str) -> "Cell":
    """The interval of the model minus a baseline: green if the model is better, red if it is worse."""
    from training.evaluation.metrics import gain
    from twotower.terminal import styled

    if (found := gain(model, ranker, name)) is None:
        return "-"
    style = {"better": "green", "worse": "red", "undecided": "default"}[found.says]
    return styled(f"{found.low:+.4f}\n{found.high:+.4f}", style)


def slice_table(result: Results) -> "TextTable":
    """Recall@10 of every ranker and the set loss of the model, by kind of answer."""
    from training.evaluation.metrics import SLICES

    table = new_table("R@10 by kind of answer", "", ["answers", *(r.replace("_", " ") for r in result), "set loss, model"])
    for template, label in SLICES.items():
        count = result["model"][template.format("answers")]
        recalls = (figure(metrics, template.format("recall@10")) for metrics in result.values())
        table.add_row(label, f"{count:,.0f}", *recalls, figure(result["model"], template.format("set_loss")))
    return table


def other_table(result: Results) -> "TextTable":
    """Further metrics of every ranker: coverage, entropy, batch-local metrics and others."""
    from twotower.metrics.names import BESIDE

    table = new_table("further metrics", "", [name.replace("_", " ") for name in result])
    for name, label in BESIDE.items():
        table.add_row(label, *(figure(metrics, name) for metrics in result.values()))
    return table


def new_table(title: str, first: str, columns: list[str]) -> "TextTable":
    """A table with a first column of labels and right-aligned columns of figures."""
    from twotower.terminal import TextTable

    table = TextTable(title=title, title_justify="left")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def figure(metrics: dict[str, float], name: str) -> str:
    """A metric with four decimals, or a dash if the ranker has none."""
    return f"{metrics[name]:.4f}" if name in metrics else "-"
