"""`twotower releases drift`: compares two releases, and reports as a line, as JSON or as a page."""

import argparse

import msgspec
import pyarrow as pa

from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from embedder_cache.commands.prometheus_file import write_drift
from embedder_cache.drift.drift import compare, summary
from embedder_cache.drift.retrain import load_rules, sentence, urgent_first
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.artefacts.release import open_store, read_pointer
from twotower.artefacts.store import Store
from twotower.errors import ArtefactError, EnvironmentProblem, StoreError


def report(args: argparse.Namespace) -> int:
    """Compare two releases, by default the current one with the one before it, and report. Both are verified first."""
    rules, bundle = load_rules(args.rules), None if args.bundle is None else load_bundle(args.bundle)
    store = open_store(args.store)
    pointer = read_pointer(store)
    older, newer = args.older or pointer.previous, args.newer or pointer.release
    if older is None:
        raise StoreError(f"{pointer.release} is the only release that was ever current: name another with --from")
    drift = compare(open_release(store, older).verified(), open_release(store, newer).verified(), bundle, rules)
    if args.page is not None:
        from embedder_cache.drift.page import render
        from twotower.report.page import save

        save(args.page, render(drift))
    if args.metrics is not None:
        write_drift(args.metrics, drift.advice)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(drift)).decode())
    else:
        print(f"{older} -> {newer}: {summary(drift)}")
        for finding in urgent_first(drift.advice):
            print(f"  retrain {finding.retrain}: {sentence(finding)}")
    return 0


def line(served: OpenedRelease, store: Store, newer: str, bundle: Bundle) -> str:
    """What changed overnight, in a line. Only golden queries are asked, which takes half a second."""
    try:
        return summary(compare(served.verified(), open_release(store, newer).verified(), bundle, num_histories=0))
    except (ArtefactError, EnvironmentProblem, OSError, msgspec.DecodeError, pa.ArrowInvalid) as error:
        return f"{served.path.name}, which it replaces, cannot be read, so nothing is compared with it: {error}"
