"""`twotower users`: sends past events, reads histories ahead, deletes users everywhere, forgets what is old. It prints no id."""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.artefacts.sqlite_file import connect, sqlite_path
from twotower.data.features import DAY_MS
from twotower.errors import DataError, EnvironmentProblem

if TYPE_CHECKING:
    import sqlite3

    from twotower.data.schema import EventColumns
    from twotower.nightly.servers import Server

REDIS_TIMEOUT_S = 5.0
SENT_AT_ONCE = 1024  # events that a server takes in one request
PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # before a request is sent again


def main(argv: list[str]) -> int:
    """Send past events to a server, read histories ahead, delete what is stored of a user, or of all whose last event is old."""
    args = parser().parse_args(argv)
    return {"import": _import, "warm": _warm, "delete": _delete, "expire": _expire}[args.action](args)


def parser() -> argparse.ArgumentParser:
    """The command line of `twotower users`."""
    result = argparse.ArgumentParser("twotower users", description=main.__doc__)
    actions = result.add_subparsers(dest="action", required=True)
    imported = actions.add_parser("import", help="send past events to a server, so that it knows the users from the start")
    imported.add_argument("--events", type=Path, required=True, help="Parquet file, or a directory of them")
    imported.add_argument("--schema", type=Path, required=True, help="schema.toml, which names the columns of --events")
    imported.add_argument("--server", metavar="URL", required=True, help="such as http://127.0.0.1:8000")
    imported.add_argument("--key-file", type=Path, metavar="FILE", help="API key with the scope events:write")
    warm = actions.add_parser("warm", help="read the histories of recent users into the servers' file of user states")
    warm.add_argument("--store", required=True, help="directory or s3://BUCKET/PREFIX of releases")
    warm.add_argument("--release", metavar="ID", help="read with this release, which is about to be current (the current one)")
    warm.add_argument("--verify-key", type=Path, metavar="PEM", help="only with a release signed by it")
    warm.add_argument("--history", metavar="URL", required=True, help="sqlite:///FILE, the histories of the servers")
    warm.add_argument("--days", type=float, required=True, help="users with an event in the last so many days")
    warm.add_argument("--directory", type=Path, required=True, help="TWOTOWER_USER_CACHE_DIR of the servers on this machine")
    warm.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="fp32", help="TWOTOWER_DTYPE of the servers (fp32)")
    warm.add_argument("--gb", type=float, default=2.0, help="TWOTOWER_USER_CACHE_GB of the servers (%(default)g)")
    delete = actions.add_parser("delete", help="delete one user from servers, histories and files of events")
    delete.add_argument("--user", required=True, metavar="ID")
    what = "ask this server process to forget the user: once for each process, by its admin port if it has one"
    delete.add_argument("--server", metavar="URL", action="append", default=[], help=what)
    delete.add_argument("--key-file", type=Path, metavar="FILE", help="API key with the scope users:delete, for the servers")
    expire = actions.add_parser("expire", help="forget users without an event for so many days, and events older than that")
    expire.add_argument("--days", type=float, required=True)
    for action in (delete, expire):
        what = "a history store: sqlite:///FILE, redis://... or rediss://..."
        action.add_argument("--history", metavar="URL", action="append", default=[], help=what)
        what = "Parquet file of events, or a directory of them, which is rewritten without the rows"
        action.add_argument("--events", type=Path, metavar="FILE", action="append", default=[], help=what)
        action.add_argument("--schema", type=Path, help="schema.toml, which names the columns of --events")
    return result


def _import(args: argparse.Namespace) -> int:
    from service.histories.past_events import read_past_events
    from twotower.nightly.servers import servers_of
    from twotower.progress import step
    from twotower.tables.left_out import LeftOut
    from twotower.tables.table import open_table

    (server,) = servers_of((args.server,), args.key_file)
    stored = known = num_rows = 0
    rejected: list[str] = []
    with step("send events", open_table(args.events, "events").num_rows, "events") as work:
        for events in read_past_events(args.events, _columns(args.schema), left_out := LeftOut()):
            for start in range(0, len(events), SENT_AT_ONCE):
                part = events[start : start + SENT_AT_ONCE]
                outcome = _sent(server, part)
                stored, known = stored + outcome["accepted"], known + outcome["duplicates"]
                rejected += [one["reason"] for one in outcome["rejected"]]
                work.advance(len(part))
            num_rows += len(events)
    print(f"{stored:,} events are stored now, {known:,} were before")
    if unusable := left_out.num_rows - num_rows:
        print(f"{unusable:,} rows cannot be used: `twotower validate` says why")
    if rejected:
        print(f"{len(rejected):,} events were rejected; the first: {rejected[0]}")
    return 1 if rejected else 0


def _sent(server: "Server", events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The outcome of storing events, which are sent again while the server may come back. Each is stored once."""
    from twotower.nightly.servers import Silent

    for pause_s in (*PAUSES_S, None):
        try:
            return server.store(events)
        except Silent as silent:
            if pause_s is None or not silent.may_pass:
                raise EnvironmentProblem(f"{silent}: run this again, what is stored is not stored twice") from silent
        time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _warm(args: argparse.Namespace) -> int:
    from service.histories.sqlite_history import read, recent_users
    from service.ranking.warm import room_for, warm
    from service.release.loading import device_of, load_release
    from service.states.cache import UserCache
    from twotower.artefacts.signature import load_verifier
    from twotower.progress import step

    path, max_bytes, now_ms = sqlite_path(args.history), int(args.gb * 2**30), round(time.time() * 1000)
    if path is None or not path.is_file():
        raise EnvironmentProblem("--history must be sqlite:///FILE, and there: Redis does not know its users by their last event")
    if not (args.days > 0 and max_bytes > 0):
        raise DataError(f"--days {args.days:g} --gb {args.gb:g}: give numbers above 0")
    verifier = load_verifier(args.verify_key) if args.verify_key else None
    release = load_release(args.store, verifier, device_of("cpu", args.dtype), release=args.release)
    cache = UserCache(0)
    cache.open_file(args.directory, max_bytes)
    connection = connect(path, "histories", "--history")
    with closing(connection):
        users = recent_users(connection, round(now_ms - args.days * DAY_MS))
        latest = users[max(len(users) - room_for(release, max_bytes), 0) :]
        with step("read histories", len(latest), "users") as work:
            histories = ((user, read(connection, user)) for user in latest)
            warmed = warm(release, histories, now_ms, cache, work.advance)
        cache.close()
    print(f"{warmed.num_users:,} users are in the file, {warmed.num_events:,} events were read for that")
    if left_out := len(users) - len(latest):
        print(f"{left_out:,} users whose last event is older are left out: the file has no room for them")
    if troubles := cache.counters.unreadable:
        print(f"{troubles:,} states could not be read or written")
    return 0


def _delete(args: argparse.Namespace) -> int:
    from service.histories.event_files import remove_user
    from service.histories.sqlite_history import delete
    from twotower.nightly.servers import Silent, servers_of

    if not (args.server or args.history or args.events):
        raise DataError("name where to delete the user: --server, --history, --events")
    for url in args.history:
        path = sqlite_path(url)
        if path is None and not url.startswith(("redis://", "rediss://")):
            raise EnvironmentProblem(
                "--history must be sqlite:///FILE (sqlite:////FILE for an absolute path), redis://... or rediss://..."
            )
        count = _in_file(path, lambda connection: delete(connection, args.user)) if path else in_redis(url, args.user)
        print(f"{count} events ever stored are deleted from {_without_password(url)}")
    for file in args.events:
        print(f"{remove_user(file, _columns(args.schema), args.user)} events are removed from {file}")
    try:  # last, so that nothing brings the history back to a server's memory
        for server in servers_of(tuple(args.server), args.key_file):
            print(f"{server.url} has forgotten the user ({server.forget(args.user)} events ever stored)")
    except Silent as silent:
        raise EnvironmentProblem(f"{silent}, so it may still hold the user in memory: run this again") from silent
    return 0


def _expire(args: argparse.Namespace) -> int:
    from service.histories.event_files import remove_old
    from service.histories.sqlite_history import expire

    if not (args.history or args.events):
        raise DataError("name what is to be looked through: --history, --events")
    if not args.days > 0:
        raise DataError(f"--days {args.days:g} would forget everything: give a number above 0")
    before_ms = round(time.time() * 1000 - args.days * DAY_MS)
    for url in args.history:
        if (path := sqlite_path(url)) and not path.is_file():
            print(f"no user is forgotten in {url}: no server has made that file yet")
        elif path:
            print(f"{_in_file(path, lambda connection: expire(connection, before_ms))} users are forgotten in {url}")
        else:
            print(f"{_without_password(url)} forgets by itself, after TWOTOWER_REDIS_TTL_DAYS")
    for file in args.events:
        print(f"{remove_old(file, _columns(args.schema), before_ms)} events are removed from {file}")
    return 0


def _columns(schema: Path | None) -> "EventColumns":
    from twotower.data.schema import EventColumns, load_schema

    return load_schema(schema).events if schema else EventColumns()


def _in_file(path: Path, work: "Callable[[sqlite3.Connection], int]") -> int:
    """The result of `work` on a file of histories, which a server may have open too."""
    import sqlite3

    if not path.is_file():
        raise EnvironmentProblem(f"{path} is not there: is --history right?")
    try:
        with closing(connect(path, "histories", "--history")) as connection:
            return work(connection)
    except sqlite3.Error as error:
        raise EnvironmentProblem(f"cannot change the histories in {path}: {error}") from error


def in_redis(url: str, user_id: str) -> int:
    """Delete a user from Redis; returns how many events were ever stored."""
    from service.histories.history import HistoryUnavailable
    from service.histories.redis_history import RedisHistory

    async def delete() -> int:
        store = RedisHistory(url, REDIS_TIMEOUT_S, ttl_days=1.0)
        try:
            return await store.delete(user_id)
        finally:
            await store.close()

    try:
        return asyncio.run(delete())
    except HistoryUnavailable as error:
        raise EnvironmentProblem(f"{_without_password(url)} did not delete the user: {error}") from error


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
