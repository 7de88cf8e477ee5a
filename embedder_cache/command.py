"""`twotower embed`: bundle and items -> a published release."""

import argparse
from pathlib import Path

ENGINES = ("local", "ray")


def main(argv: list[str]) -> int:
    """Embed the catalogue, build the index, verify, and point the store at the new release."""
    parser = argparse.ArgumentParser(prog="twotower embed", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="directory of releases; made when missing")
    parser.add_argument("--events", type=Path, help="refresh item popularity from these; else it is as of training")
    parser.add_argument("--signals", type=Path, help="what is announced for items; without it, nothing is")
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="embed in this process, or on a Ray cluster (RAY_ADDRESS)"
    )
    parser.add_argument("--gates", type=Path, metavar="TOML", help="limits a release must keep; see docs/operating.md")
    parser.add_argument("--force", action="store_true", help="publish although a limit is broken; needs --reason")
    parser.add_argument("--reason", help="why, for the release's gates.json")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="write FILE for Prometheus' textfile collector: NAME.prom")
    parser.add_argument("--json", action="store_true", help="what was done, as JSON on stdout")
    args = parser.parse_args(argv)
    if args.force != bool(args.reason):
        parser.error("--force and --reason go together")

    import json
    import time

    from embedder_cache.build import build_release
    from embedder_cache.engine import engine_named
    from embedder_cache.gates import load_limits
    from embedder_cache.textfile import write_metrics
    from twotower.bundle import load_bundle
    from twotower.events import count_rows
    from twotower.progress import say, step

    engine, limits, bundle = engine_named(args.engine), load_limits(args.gates), load_bundle(args.bundle)
    with step("embed items", total=count_rows(args.items, "items"), unit="items") as work:
        started = time.monotonic()
        published = build_release(
            bundle, args.items, args.store, args.events, work.advance, args.signals, limits, args.reason, engine
        )
        seconds = time.monotonic() - started
    if args.metrics:
        write_metrics(args.metrics, published, seconds)
    if published.changed:
        say(f"published {published.release} in {args.store}: {published}")
    else:
        say(f"nothing changed: {published.release} is published already")
    if published.num_rejected:
        say(f"  WARNING: {published.num_rejected:,} rows of {args.items} could not be embedded and are left out")
    if args.json:
        print(
            json.dumps(
                {
                    "release": published.release,
                    "items": published.num_items,
                    "embedded": published.num_embedded,
                    "gone": published.num_gone,
                    "rejected": published.num_rejected,
                    "seconds": seconds,
                }
            )
        )
    return 0
