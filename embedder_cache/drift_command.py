"""`twotower releases drift`: two releases compared, as a line, as JSON, as a page."""

import argparse

import msgspec

from embedder_cache.drift import compare, summary
from embedder_cache.retrain import load_rules, sentence, urgent_first
from twotower.bundle import load_bundle
from twotower.errors import EnvironmentProblem, StoreError
from twotower.release import read_pointer, release_path, verify_release


def report(args: argparse.Namespace) -> int:
    """Compare and tell; without names the current release with the one before it. Both are verified first."""
    rules, bundle = load_rules(args.rules), None if args.bundle is None else load_bundle(args.bundle)
    pointer = read_pointer(args.store)
    older, newer = args.older or pointer.previous, args.newer or pointer.release
    if older is None:
        raise StoreError(f"{pointer.release} is the only release that was ever current: name another with --from")
    before, after = release_path(args.store, older), release_path(args.store, newer)
    verify_release(before)
    verify_release(after)
    drift = compare(before, after, bundle, rules)
    if args.page is not None:
        from embedder_cache.drift_page import render

        try:
            args.page.write_text(render(drift), encoding="utf-8")
        except OSError as error:
            raise EnvironmentProblem(f"cannot write {args.page}: {error.strerror or error}. Choose another --page.") from error
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(drift)).decode())
    else:
        print(f"{older} -> {newer}: {summary(drift)}")
        for finding in urgent_first(drift.advice):
            print(f"  retrain {finding.retrain}: {sentence(finding)}")
    return 0
