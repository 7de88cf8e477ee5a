"""`twotower keys`: make API keys."""

import argparse
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec
import tomli_w

from service.http.keys import ApiKey, Scope
from twotower.errors import DataError


def main(argv: list[str]) -> int:
    """Print a new key, and its entry for the server's file of keys. The key itself is stored nowhere."""
    arguments = parser().parse_args(argv)
    secret = secrets.token_urlsafe(32)  # 256 bits
    entry = {
        "id": arguments.id or f"key-{secrets.token_hex(4)}",
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "scopes": [scope for scope in arguments.scopes.split(",") if scope],
    }
    if arguments.days:
        entry["expires"] = datetime.now(UTC).replace(microsecond=0) + timedelta(days=arguments.days)
    entry |= {name: value for name in ("rate", "burst") if (value := getattr(arguments, name)) is not None}
    try:
        msgspec.convert(entry, ApiKey)
    except msgspec.ValidationError as error:
        raise DataError(f"this key would not be valid: {error}. Scopes are {', '.join(get_args(Scope))}.") from error
    print(f"# The key, shown only this once; give it to the client:\n# {entry['id']}.{secret}\n#")
    print(f"# Append this to the file of --keys:\n{tomli_w.dumps({'keys': [entry]})}", end="")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line of `twotower keys`."""
    result = argparse.ArgumentParser("twotower keys", description="Make an API key for the server.")
    new = result.add_subparsers(dest="action", required=True).add_parser("new", help="print a key and its entry")
    new.add_argument("--scopes", required=True, help=f"separated by commas: {', '.join(get_args(Scope))}")
    new.add_argument("--id", help="name of the key in logs and metrics (random)")
    new.add_argument("--days", type=float, help="days until the key expires (never)")
    new.add_argument("--rate", type=float, help="requests per second that it may send (no limit)")
    new.add_argument("--burst", type=float, help="requests that it may send at once (as many as --rate allows in a second)")
    return result
