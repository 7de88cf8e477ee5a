"""`twotower evaluate`: a bundle under one of the protocols, with the counters beside it."""

import argparse
import json
from pathlib import Path

SHOWN = ("recall@10", "ndcg@10", "mrr@10", "hit_rate@10", "repeat_recall@10", "explore_recall@10", "unseen_recall@10", "set_loss")


def main(argv: list[str]) -> int:
    """Rank the full catalogue for every held-out query. Seen items stay candidates, except under leave-one-out."""
    parser = argparse.ArgumentParser(prog="twotower evaluate", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--protocol", choices=["next-basket", "next-event", "leave-one-out"], default="next-basket")
    parser.add_argument("--json", action="store_true", help="every metric as JSON on stdout")
    args = parser.parse_args(argv)

    from training.data import read_data
    from training.evaluate import leave_one_out, next_basket, next_event
    from training.judge import compare_with_counters
    from twotower.bundle import load_bundle
    from twotower.errors import DataError

    bundle = load_bundle(args.bundle)
    towers, config = bundle.towers, bundle.towers.config
    data = read_data(
        args.events,
        args.items,
        towers.schema,
        config.popularity_half_lives_days,
        config.model.context_table_rows,
        config.model.context_spec,
    )
    if args.protocol == "leave-one-out":
        queries = leave_one_out(data.log, data.test_from_ms)
    else:
        protocol = next_basket if args.protocol == "next-basket" else next_event
        queries = protocol(data.log, data.test_from_ms, data.end_ms)
    if not queries:
        raise DataError("nothing to judge: no event lies at or after the split's test_from")
    result = compare_with_counters(data, towers, args.items, queries, args.protocol)
    if args.json:
        print(
            json.dumps({"protocol": args.protocol, "candidates": "full catalogue", "rankers": result}, indent=2, allow_nan=False)
        )
    else:
        _print_table(args.protocol, result)
    return 0


def _print_table(protocol: str, result: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{protocol}, full catalogue, test part")
    table.add_column("ranker")
    for name in SHOWN:
        table.add_column(name, justify="right")
    for ranker, metrics in result.items():
        table.add_row(ranker, *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in SHOWN))
    Console().print(table)
