"""`twotower releases`: list, verify, compare, activate, roll back and remove what a store holds; make keys to sign it with."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.artefacts.store import GRACE_MINUTES, RELEASES

if TYPE_CHECKING:
    from twotower.artefacts.signature import Verifier


def main(argv: list[str]) -> int:
    """Look after a release store. Nothing is ever overwritten: a rollback is a new pointer to an older release."""
    parser = argparse.ArgumentParser(prog="twotower releases", description=main.__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for action, what in (
        ("list", "releases, oldest first, the current one marked"),
        ("verify", "hash every file of a release (default: the current one)"),
        ("activate", "point at a release after verifying it"),
        ("rollback", "point at the release that was current before; each further time one step further back"),
        ("propose", "let the servers try a release beside the current one, on a share of the users"),
        ("withdraw", "end that trial: the current release answers everyone again"),
        ("drift", "what changed between two releases, and whether to train again"),
        ("gc", "remove old releases and damaged ones; the current one, the one to roll back to and those that servers name stay"),
        ("keygen", "make a pair of ed25519 keys: one for `embed --sign`, one for `--verify-key`"),
    ):
        sub = actions.add_parser(action, help=what, description=what)
        if action == "keygen":
            sub.add_argument("--out", type=Path, required=True, help="directory for signing.pem and verify.pem")
            continue
        sub.add_argument("--store", required=True, help="directory, or s3://BUCKET/PREFIX")
        if action in ("verify", "activate", "propose"):
            sub.add_argument("release", nargs="?" if action == "verify" else None)
        if action in ("verify", "activate", "rollback", "propose"):
            sub.add_argument("--verify-key", metavar="PEM", help="refuse what is not signed by it (TWOTOWER_VERIFY_KEY)")
        if action == "propose":
            sub.add_argument("--percent", type=float, default=5.0, help="share of the users (default: %(default)g)")
            sub.add_argument("--seconds", type=float, default=1800.0, help="length of the trial (default: %(default)g)")
        if action == "gc":
            sub.add_argument("--keep", type=int, default=7, help="how many of the newest releases stay (default: %(default)s)")
            what = (
                "what was written or current within so many minutes stays too: a server may be loading it (default: %(default)s)"
            )
            sub.add_argument("--grace-minutes", type=float, default=GRACE_MINUTES, help=what)
            what = "a plan of variants, whose releases stay; give it once for each plan (servers leave marks for theirs)"
            sub.add_argument("--variants", type=Path, metavar="TOML", action="append", default=[], help=what)
        if action == "drift":
            sub.add_argument("--from", dest="older", metavar="RELEASE", help="default: what a rollback would go to")
            sub.add_argument("--to", dest="newer", metavar="RELEASE", help="default: the current one")
            sub.add_argument("--bundle", type=Path, help="the bundle that made the newer one: what happened since it was trained")
            sub.add_argument("--rules", type=Path, metavar="TOML", help="when to train again; see docs/nightly.md")
            sub.add_argument("--page", type=Path, metavar="FILE.html", help="write the report as a page that needs no network")
            sub.add_argument("--metrics", type=Path, metavar="FILE.prom", help="leave the numbers for Prometheus' node exporter")
            sub.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    args = parser.parse_args(argv)
    known = {
        "list": _list,
        "verify": _verify,
        "activate": _activate,
        "rollback": _rollback,
        "propose": _propose,
        "withdraw": _withdraw,
        "gc": _gc,
        "drift": _drift,
        "keygen": _keygen,
    }
    return known[args.action](args)


def _list(args: argparse.Namespace) -> int:
    import msgspec

    from twotower.artefacts.release import INFO, ReleaseInfo, current_release, open_store
    from twotower.errors import StoreError

    store = open_store(args.store)
    releases = store.releases()
    if not releases:
        raise StoreError(f"{store} holds no releases: publish one with `twotower embed`")
    current = current_release(store)
    for release in releases:
        mark = "*" if release == current else " "
        try:
            info = msgspec.json.decode(store.read(f"{RELEASES}/{release}/{INFO}") or b"", type=ReleaseInfo)
        except msgspec.DecodeError as error:
            print(f"{mark} {release}  damaged: {INFO}: {error}")
        else:
            print(f"{mark} {release}  {info.num_items:>10,} items  {info.bundle_id}  space {info.vector_space_id}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from twotower.artefacts.release import open_store, read_pointer, verify

    store = open_store(args.store)
    release = args.release or read_pointer(store).release
    manifest = verify(store, release, _verifier(args))
    print(f"{release}: {len(manifest.files)} files, {sum(f.size for f in manifest.files.values()):,} bytes, all true")
    return 0


def _activate(args: argparse.Namespace) -> int:
    from twotower.artefacts.release import activate, open_store

    pointer = activate(open_store(args.store), args.release, _verifier(args))
    print(f"{pointer.release} is current (pointer {pointer.sequence})")
    return 0


def _rollback(args: argparse.Namespace) -> int:
    from twotower.artefacts.release import open_store, roll_back

    pointer = roll_back(open_store(args.store), _verifier(args))
    print(f"{pointer.release} is current again (pointer {pointer.sequence})")
    return 0


def _propose(args: argparse.Namespace) -> int:
    from twotower.artefacts.release import Candidate, open_store, propose
    from twotower.errors import StoreError

    if not (0 < args.percent <= 100 and args.seconds > 0):
        raise StoreError("--percent must be above 0 and at most 100, and --seconds above 0")
    candidate = Candidate(release=args.release, percent=args.percent, seconds=args.seconds)
    pointer = propose(open_store(args.store), candidate, _verifier(args))
    print(f"{args.release} is tried beside {pointer.release} (pointer {pointer.sequence})")
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    from twotower.artefacts.release import open_store, withdraw

    pointer = withdraw(open_store(args.store))
    print(f"{pointer.release} answers everyone (pointer {pointer.sequence})")
    return 0


def _gc(args: argparse.Namespace) -> int:
    from twotower.artefacts.release import open_store, read_pointer
    from twotower.artefacts.retention import collect
    from twotower.errors import StoreError

    if args.keep < 1:
        raise StoreError(f"--keep {args.keep} would keep no release: give 1 or more")
    store = open_store(args.store)
    read_pointer(store)  # without one, nobody knows what is served
    named = [release for plan in args.variants for release in _named(plan)]
    removed, kept = collect(store, args.keep, args.grace_minutes, named)
    print(f"{removed} releases removed, {kept} kept")
    return 0


def _named(plan: Path) -> list[str]:
    """The releases that a plan of variants names. The server checks the plan itself; here any id in it counts."""
    import tomllib

    from twotower.errors import EnvironmentProblem

    try:
        found = tomllib.loads(plan.read_text())
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"cannot read the plan of variants {plan}: {error}. Correct --variants.") from error
    tables = [*found.get("arms", ()), found.get("shadow", {})]
    return [str(table["release"]) for table in tables if isinstance(table, dict) and "release" in table]


def _drift(args: argparse.Namespace) -> int:
    from embedder_cache.commands.drift_command import report

    return report(args)


def _keygen(args: argparse.Namespace) -> int:
    from twotower.artefacts.signature import make_keys

    private, public = make_keys(args.out)
    print(f"{private} signs (`twotower embed --sign`): it belongs where releases are made, and nowhere else")
    print(f"{public} verifies (`--verify-key`, TWOTOWER_VERIFY_KEY)")
    return 0


def _verifier(args: argparse.Namespace) -> "Verifier | None":
    import os

    from twotower.artefacts.signature import load_verifier

    path = args.verify_key or os.environ.get("TWOTOWER_VERIFY_KEY")
    return load_verifier(Path(path)) if path else None
