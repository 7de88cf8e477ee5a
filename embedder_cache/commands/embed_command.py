"""`twotower embed`: bundle and items -> a published release."""

import argparse
from pathlib import Path

from twotower.device_option import add_device_option
from twotower.index.kinds import KINDS

ENGINES = ("local", "ray")
MOST_CHANGED = 0.10
EPILOG = (
    "Run it every night from cron or a Kubernetes CronJob; it is safe to kill and to run again. Exit status 0: published, or "
    "nothing had changed; 2: refused or wrong input, and what was served stays. Watch the age of --metrics; go back with "
    "`twotower releases rollback`."
)


def main(argv: list[str]) -> int:
    """Embed the catalogue, build the index, verify the new release, and make it the current one of the store."""
    parser = argparse.ArgumentParser(prog="twotower embed", description=main.__doc__, epilog=EPILOG)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--store", required=True, help="directory of releases, made when missing; or s3://BUCKET/PREFIX")
    parser.add_argument("--events", type=Path, help="count item popularity from these; without it popularity is as of training")
    parser.add_argument("--signals", type=Path, help="item signals by day (promotions, mailers); without it they are zero")
    parser.add_argument(
        "--delta", metavar="URL", help="include the items put and deleted through a server's /v1/items: sqlite:///FILE"
    )
    parser.add_argument("--index", choices=("auto", *KINDS), default="auto", help="how items are found; see docs/nightly.md")
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="embed in this process, or on a Ray cluster (RAY_ADDRESS)"
    )
    parser.add_argument(
        "--by-content",
        action="store_true",
        help="embed items without their ids: for a catalogue that the bundle was not trained on",
    )
    add_device_option(parser, default="cpu")
    parser.add_argument("--gates", type=Path, metavar="TOML", help="limits that a release must keep; see docs/nightly.md")
    parser.add_argument("--force", action="store_true", help="publish although a limit is broken; needs --reason")
    parser.add_argument("--reason", help="why, for the release's gates.json")
    parser.add_argument(
        "--patch",
        type=float,
        default=MOST_CHANGED,
        metavar="SHARE",
        help="write only what changed, up to this share of the items (default: %(default)s); 0 writes all of them every night",
    )
    parser.add_argument("--prove", action="store_true", help="read files again that the release shares with the served one")
    parser.add_argument("--aside", action="store_true", help="put the release into the store, but leave the current one current")
    parser.add_argument("--map", action="store_true", help="draw the map of the catalogue too; needs pip install 'twotower[map]'")
    parser.add_argument(
        "--map-colour", metavar="COLUMN", help="a categorical column colours the map (default: the first with 2 to 64 values)"
    )
    parser.add_argument("--sign", metavar="PEM", help="sign the release with this key (TWOTOWER_SIGNING_KEY)")
    parser.add_argument("--keep", type=int, metavar="N", help="then remove all but the newest N, as `releases gc` does")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="write FILE for Prometheus' textfile collector: NAME.prom")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON on stdout")
    args = parser.parse_args(argv)
    if args.force != bool(args.reason):
        parser.error("--force and --reason go together")
    if args.by_content and args.engine != "local":
        parser.error("--by-content embeds in this process: leave out --engine")
    if args.by_content and args.device != "cpu":
        parser.error("--by-content embeds on the CPU: leave out --device")
    if args.map_colour and not args.map:
        parser.error("--map-colour needs --map")
    if not 0 <= args.patch <= 1:
        parser.error("--patch must be a share from 0 to 1")
    if args.keep is not None and args.keep < 1:
        parser.error("--keep must be 1 or more")

    import json
    import os
    import time

    from embedder_cache.build import build_release
    from embedder_cache.checks.gates import load_limits
    from embedder_cache.commands import drift_command
    from embedder_cache.commands.prometheus_file import write_metrics
    from embedder_cache.embedding.engines import engine_named
    from embedder_cache.maps.process import MapOptions
    from twotower.artefacts.bundle import load_bundle
    from twotower.artefacts.item_changes import Changes, read_delta
    from twotower.artefacts.release import open_store
    from twotower.artefacts.retention import collect
    from twotower.artefacts.signature import load_signer
    from twotower.artefacts.store import GRACE_MINUTES
    from twotower.device import choose
    from twotower.progress import say

    store, key = open_store(args.store), args.sign or os.environ.get("TWOTOWER_SIGNING_KEY")
    signer = load_signer(Path(key)) if key else None
    delta = read_delta(args.delta) if args.delta else Changes()
    device = choose(args.device)
    engine, limits, bundle = engine_named(args.engine, device), load_limits(args.gates), load_bundle(args.bundle)
    started = time.monotonic()
    published = build_release(
        bundle,
        args.items,
        store,
        args.events,
        signals=args.signals,
        limits=limits,
        forced=args.reason,
        signer=signer,
        index=args.index,
        engine=engine,
        delta=delta,
        device=device,
        aside=args.aside,
        by_content=args.by_content,
        map_options=MapOptions(args.map_colour) if args.map else None,
        most_changed=args.patch,
        prove=args.prove,
    )
    seconds = time.monotonic() - started
    if args.metrics:
        write_metrics(args.metrics, published, seconds)
    if published.changed:
        say(f"{'wrote' if args.aside else 'published'} {published.release} in {store}: {published}")
        if published.served:
            say(f"  {drift_command.line(published.served, store, published.release, bundle)}")
    else:
        say(f"nothing changed: {published.release} is published already")
    if args.delta:
        say(f"  {published.num_put:,} items that were put and {published.num_deleted:,} that were deleted are folded in")
    if published.num_rejected:
        say(f"  WARNING: {published.num_rejected:,} rows of {args.items} could not be embedded and are left out")
    if args.keep:
        removed, kept = collect(store, args.keep, GRACE_MINUTES)
        say(f"{removed} old releases removed, {kept} kept")
    if args.json:
        print(
            json.dumps(
                {
                    "release": published.release,
                    "changed": published.changed,
                    "items": published.num_items,
                    "embedded": published.num_embedded,
                    "gone": published.num_gone,
                    "rejected": published.num_rejected,
                    "map_points": published.num_points,
                    "embed_seconds": published.embed_s,
                    "seconds": seconds,
                }
            )
        )
    return 0
