"""`twotower releases drift`: two releases compared, as a line, as JSON, as a page."""

from pathlib import Path

import msgspec

from embedder_cache.drift import compare, summary
from embedder_cache.retrain import load_rules, sentence, urgent_first
from twotower.bundle import load_bundle
from twotower.errors import EnvironmentProblem, StoreError
from twotower.release import read_pointer, release_path, verify_release


def report(
    store: Path, older: str | None, newer: str | None, bundle: Path | None, rules: Path | None, page: Path | None, as_json: bool
) -> int:
    """Compare and tell; without names the current release with the one before it. Both are verified first."""
    limits, trained = load_rules(rules), None if bundle is None else load_bundle(bundle)
    pointer = read_pointer(store)
    older = older or pointer.previous
    if older is None:
        raise StoreError(f"{pointer.release} is the only release that was ever current: name another with --from")
    paths = [release_path(store, release) for release in (older, newer or pointer.release)]
    for path in paths:
        verify_release(path)
    drift = compare(*paths, trained, limits)
    if page is not None:
        from embedder_cache.drift_page import render

        try:
            page.write_text(render(drift), encoding="utf-8")
        except OSError as error:
            raise EnvironmentProblem(f"cannot write {page}: {error.strerror or error}. Choose another --page.") from error
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(drift)).decode())
    else:
        print(f"{older} -> {paths[1].name}: {summary(drift)}")
        for finding in urgent_first(drift.advice):
            print(f"  retrain {finding.retrain}: {sentence(finding)}")
    return 0
