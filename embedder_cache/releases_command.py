"""`twotower releases`: list, verify, compare, activate, roll back and remove what a store holds."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Look after a release store. Nothing is ever overwritten: a rollback is a new pointer to an older release."""
    parser = argparse.ArgumentParser(prog="twotower releases", description=main.__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for action, what in (
        ("list", "releases, oldest first, the current one marked"),
        ("verify", "hash every file of a release (default: the current one)"),
        ("activate", "point at a release after verifying it"),
        ("rollback", "point at the release that was current before"),
        ("drift", "what changed between two releases, and whether to train again"),
        ("gc", "remove old releases and damaged ones; the current one and the one to roll back to stay"),
    ):
        sub = actions.add_parser(action, help=what, description=what)
        sub.add_argument("--store", type=Path, required=True)
        if action in ("verify", "activate"):
            sub.add_argument("release", nargs="?" if action == "verify" else None)
        if action == "gc":
            sub.add_argument("--keep", type=int, default=7, help="how many of the newest releases stay (default: %(default)s)")
        if action == "drift":
            sub.add_argument("--from", dest="older", metavar="RELEASE", help="default: what a rollback would go to")
            sub.add_argument("--to", dest="newer", metavar="RELEASE", help="default: the current one")
            sub.add_argument("--bundle", type=Path, help="the bundle that made the newer one: what happened since it was trained")
            sub.add_argument("--rules", type=Path, metavar="TOML", help="when to train again; see docs/operating.md")
            sub.add_argument("--page", type=Path, metavar="FILE.html", help="write the report as a page that needs no network")
            sub.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    args = parser.parse_args(argv)
    known = {"list": _list, "verify": _verify, "activate": _activate, "rollback": _rollback, "gc": _gc, "drift": _drift}
    return known[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from twotower.errors import ArtefactError, StoreError
    from twotower.release import current_release, list_releases, read_info, release_path

    releases = list_releases(args.store)
    if not releases:
        raise StoreError(f"{args.store} holds no releases: publish one with `twotower embed`")
    current = current_release(args.store)
    for release in releases:
        mark = "*" if release == current else " "
        try:
            info = read_info(release_path(args.store, release))
        except ArtefactError as error:
            print(f"{mark} {release}  damaged: {error}")
        else:
            print(f"{mark} {release}  {info.num_items:>10,} items  {info.bundle_id}  space {info.vector_space_id}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from twotower.release import read_pointer, release_path, verify_release

    release = args.release or read_pointer(args.store).release
    manifest, _ = verify_release(release_path(args.store, release))
    print(f"{release}: {len(manifest.files)} files, {sum(f.size for f in manifest.files.values()):,} bytes, all true")
    return 0


def _activate(args: argparse.Namespace) -> int:
    from twotower.release import release_path, verify_release, write_pointer

    verify_release(release_path(args.store, args.release))
    pointer = write_pointer(args.store, args.release, reason="activated by hand")
    print(f"{pointer.release} is current (pointer {pointer.sequence})")
    return 0


def _rollback(args: argparse.Namespace) -> int:
    from twotower.errors import StoreError
    from twotower.release import read_pointer, release_path, verify_release, write_pointer

    current = read_pointer(args.store)
    if current.previous is None:
        raise StoreError(f"{current.release} is the only release that was ever current: there is nothing to roll back to")
    verify_release(release_path(args.store, current.previous))
    pointer = write_pointer(args.store, current.previous, reason=f"rolled back from {current.release}")
    print(f"{pointer.release} is current again (pointer {pointer.sequence})")
    return 0


def _gc(args: argparse.Namespace) -> int:
    import shutil

    from embedder_cache.publish import only_publisher
    from twotower.errors import StoreError
    from twotower.release import list_releases, read_pointer

    if args.keep < 1:
        raise StoreError(f"--keep {args.keep} would keep no release: give 1 or more")
    with only_publisher(args.store):
        pointer = read_pointer(args.store)
        releases = args.store / "releases"
        kept = {*list_releases(args.store)[-args.keep :], pointer.release, pointer.previous}
        old = [releases / release for release in list_releases(args.store) if release not in kept]
        # Renamed first: a removal that is cut short leaves no release that looks whole.
        removed = [path.rename(path.with_name(f".removed-{path.name}")) for path in old]
        for path in {*removed, *releases.glob(".removed-*"), *releases.glob(".damaged-*")}:
            shutil.rmtree(path)
    print(f"{len(old)} releases removed, {len(kept - {None})} kept")
    return 0


def _drift(args: argparse.Namespace) -> int:
    from embedder_cache.drift_command import report

    return report(args)
