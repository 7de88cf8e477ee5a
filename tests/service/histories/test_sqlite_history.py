import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from service.histories.history import HistoryUnavailable, StoredEvent
from service.histories.sqlite_history import _TABLES, SqliteHistory, append
from twotower.errors import EnvironmentProblem, FormatError


def event(user: str = "ann", key: str | None = None) -> StoredEvent:
    return StoredEvent(user_id=user, event_type="view", time_ms=1, item_id="shoe", event_id=key)


def test_what_was_appended_is_read_by_the_next_process(tmp_path: Path) -> None:
    async def write() -> None:
        store = SqliteHistory(tmp_path / "h.db")
        await store.append([event()])
        await store.close()

    async def read() -> int:
        store = SqliteHistory(tmp_path / "h.db")
        history = await store.read("ann")
        await store.close()
        return history.num_events

    asyncio.run(write())
    assert asyncio.run(read()) == 1


def test_an_acknowledged_batch_is_synced_to_the_disk(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "h.db")
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    asyncio.run(store.close())


def test_a_batch_that_fails_half_way_stores_nothing(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "h.db")
    store._writer.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON events WHEN NEW.user_id = 'bob' BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        append(store._writer, [event("ann"), event("bob")])

    async def check() -> None:
        with pytest.raises(HistoryUnavailable, match="disk full"):
            await store.append([event("ann", key="1"), event("bob")])
        assert (await store.read("ann")).num_events == 0
        assert await store.append([event("ann", key="1")]) == [True]
        await store.close()

    asyncio.run(check())


def test_a_directory_that_does_not_exist_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"cannot keep histories in .*Choose a writable file with --history"):
        SqliteHistory(tmp_path / "nowhere" / "h.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.db").write_bytes(b"not a database, but long enough to look into" * 100)
    with pytest.raises(EnvironmentProblem, match="file is not a database"):
        SqliteHistory(tmp_path / "h.db")


def test_a_file_of_the_version_before_is_read_and_takes_late_events(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "h.db")
    for statement in _TABLES.replace(", latest_ms INTEGER", "").split(";"):
        connection.execute(statement)
    connection.execute("INSERT INTO users VALUES ('ann', 'e', 258)")
    for seq in range(3, 259):  # in the order of arrival; the last of them is the oldest
        stored = StoredEvent(user_id="ann", event_type="view", time_ms=seq if seq < 258 else 1)
        connection.execute("INSERT INTO events VALUES ('ann', ?, 't', ?)", (seq, msgspec.json.encode(stored)))
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()

    async def check() -> None:
        for _ in range(2):
            store = SqliteHistory(tmp_path / "h.db")
            assert [e.time_ms for e in (await store.read("ann")).events][:2] == [1, 3]
            await store.close()
        store = SqliteHistory(tmp_path / "h.db")
        await store.append([StoredEvent(user_id="ann", event_type="view", time_ms=100)])
        assert [e.time_ms for e in (await store.read("ann")).events][:2] == [3, 4]
        await store.close()

    asyncio.run(check())


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "h.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FormatError, match="version 99"):
        SqliteHistory(tmp_path / "h.db")


def test_what_was_deleted_is_overwritten_in_the_file_and_its_log(tmp_path: Path) -> None:
    """Also what the bounds had removed before: a file of a database keeps the bytes of deleted rows otherwise."""

    def bytes_of_both() -> bytes:
        return (tmp_path / "h.db").read_bytes() + (tmp_path / "h.db-wal").read_bytes()

    async def check() -> None:
        store = SqliteHistory(tmp_path / "h.db")
        for number in range(300):
            await store.append([event("forget-me", key=str(number)), event("ann")])
        await store.read("forget-me")
        assert b"forget-me" in bytes_of_both()
        await store.delete("forget-me")
        assert b"forget-me" not in bytes_of_both()
        assert (await store.read("ann")).num_events == 300
        await store.close()

    asyncio.run(check())


def test_users_are_listed_by_their_ids_with_the_number_of_their_events(tmp_path: Path) -> None:
    async def listed() -> list[list[tuple[str, int]] | None]:
        history = SqliteHistory(tmp_path / "history.db")
        await history.append([event("bob"), event("ann"), event("ann"), event("anna"), event("ä"), event("b%")])
        pages = [
            await history.list_users(*asked)
            for asked in (("", "", 10), ("ann", "", 2), ("", "ann", 10), ("ann", "ann", 10), ("", "b%", 10))
        ]
        await history.close()
        return pages

    everyone, page, prefixed, both, literal = asyncio.run(listed())
    assert everyone == [("ann", 2), ("anna", 1), ("b%", 1), ("bob", 1), ("ä", 1)]
    assert page == [("anna", 1), ("b%", 1)]
    assert prefixed == [("ann", 2), ("anna", 1)]
    assert both == [("anna", 1)]
    assert literal == [("b%", 1)]


def test_appends_that_share_a_transaction_each_learn_what_was_new(tmp_path: Path) -> None:
    async def run() -> list[list[bool]]:
        store = SqliteHistory(tmp_path / "h.db")
        first = await asyncio.gather(*(store.append([event(key=key), event("bob", key)]) for key in ("1", "2", "1")))
        history = await store.read("ann")
        assert [e.event_id for e in history.events] == ["1", "2"]
        await store.close()
        return first

    assert asyncio.run(run()) == [[True, True], [True, True], [False, False]]


def test_one_damaged_user_fails_alone_though_others_were_to_share_the_transaction(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "h.db")
    asyncio.run(store.append([event("bob")] * 256))
    store._writer.execute("UPDATE events SET payload = 'x' WHERE user_id = 'bob'")
    late = msgspec.structs.replace(event("bob"), time_ms=0)  # the others must be looked at, to see which of them goes

    async def run() -> None:
        asked = [store.append(events) for events in ([event("ann")], [late], [event("cid")])]
        ann, bob, cid = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bob, HistoryUnavailable)
        assert (ann, cid) == ([True], [True])
        assert [(await store.read(user)).num_events for user in ("ann", "cid")] == [1, 1]
        await store.close()

    asyncio.run(run())


def test_a_group_that_the_disk_refuses_is_not_tried_one_by_one(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "h.db")
    store._writer.execute("PRAGMA query_only = ON")  # what an OperationalError says of one, it says of all
    begun: list[str] = []
    store._writer.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    outcomes = store._write([(event("ann"),), (event("bob"),)])
    assert [type(outcome) for outcome in outcomes] == [HistoryUnavailable] * 2
    assert len(begun) == 1
    asyncio.run(store.close())


def test_its_version_changes_with_what_others_write_and_is_unknown_while_it_writes(tmp_path: Path) -> None:
    store, other = (SqliteHistory(tmp_path / "h.db") for _ in range(2))

    async def run() -> None:
        before = store.version()
        assert before is not None
        await store.append([event()])
        await store.delete("ann")
        assert store.version() == before
        await other.append([event()])
        assert store.version() not in (before, None)
        with store._writer_is_taken:
            assert store.version() is None
        for opened in (store, other):
            await opened.close()

    asyncio.run(run())
