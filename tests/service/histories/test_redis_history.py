import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from service.histories.history import HistoryUnavailable, StoredEvent, UserHistory
from service.histories.redis_history import RedisHistory, _keys
from tests.service.redis_server import RedisServer

ROOT = Path(__file__).parents[3]
EVENT = StoredEvent(user_id="ann", event_type="view", time_ms=1, item_id="shoe", event_id="1")


def with_redis(url: str, check: Callable[[RedisHistory], Awaitable[None]]) -> None:
    async def run() -> None:
        store = RedisHistory(url, timeout_s=2.0, ttl_days=1.0)
        try:
            await check(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_every_key_of_a_user_expires(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store._redis.flushall()
        await store.append([EVENT])
        keys = await store._redis.keys("*")
        assert len(keys) == len(_keys("ann")) == 5
        for key in keys:
            assert 0 < await store._redis.pttl(key) <= 86_400_000

    with_redis(redis_url, check)


def test_all_keys_of_a_user_live_on_one_node_of_a_cluster() -> None:
    tags = {key.partition("{")[2].partition("}")[0] for key in _keys("}a{/b")}
    assert tags == {"%7Da%7B%2Fb"}


def test_an_unreachable_redis_is_unavailable_for_reading_writing_and_deleting(tmp_path: Path) -> None:
    async def check(store: RedisHistory) -> None:
        for call in (store.append([EVENT]), store.read("ann"), store.delete("ann")):
            with pytest.raises(HistoryUnavailable) as failed:
                await call
            assert failed.value.reason == "unreachable"

    with_redis(f"unix://{tmp_path / 'nothing'}", check)


def test_a_key_of_another_type_is_unavailable_not_a_crash(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store._redis.flushall()
        await store._redis.set(_keys("ann")[1], "garbage")
        with pytest.raises(HistoryUnavailable):
            await store.read("ann")
        with pytest.raises(HistoryUnavailable) as failed:
            await store.append([EVENT])
        assert failed.value.reason == "damaged"
        assert len(await store._redis.keys("*")) == 1  # nothing was half written

    with_redis(redis_url, check)


def test_events_stored_by_the_version_before_are_read_and_take_late_ones(redis_url: str) -> None:
    """That version kept the last events to arrive, and had neither `latest` nor `whole` in the head."""

    def old(time_ms: int) -> bytes:
        return b"t" * 16 + msgspec.json.encode(StoredEvent(user_id="ann", event_type="view", time_ms=time_ms))

    async def check(store: RedisHistory) -> None:
        head, events, *_ = _keys("ann")
        await store._redis.flushall()
        await store._redis.hset(head, mapping={"epoch": "e", "n": 258})
        await store._redis.rpush(events, *(old(t) for t in range(3, 258)), old(1))
        known = await store.read("ann")
        assert [e.time_ms for e in known.events][:2] == [1, 3]
        await store.append([StoredEvent(user_id="ann", event_type="view", time_ms=100)])
        found = await store.read("ann", known)
        assert [e.time_ms for e in found.events][:2] == [3, 4]
        # A server of that version appends one more, too late; the head does not say so.
        await store._redis.rpush(events, old(2))
        await store._redis.hset(head, "n", 260)
        await store.append([StoredEvent(user_id="ann", event_type="view", time_ms=300)])
        assert [e.time_ms for e in (await store.read("ann", found)).events][:2] == [4, 5]

    with_redis(redis_url, check)


def test_a_payload_that_cannot_be_read_is_unavailable(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store._redis.flushall()
        await store._redis.hset(_keys("ann")[0], mapping={"epoch": "e", "n": 1})
        await store._redis.rpush(_keys("ann")[1], "{")
        with pytest.raises(HistoryUnavailable):
            await store.read("ann")

    with_redis(redis_url, check)


def test_redis_that_forgot_everything_gives_an_empty_history(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store.append([EVENT])
        await store._redis.flushall()
        await store._redis.script_flush()
        assert await store.read("ann") == UserHistory()
        assert await store.append([EVENT]) == [True]  # the script is sent again

    with_redis(redis_url, check)


def test_after_enough_failures_redis_is_not_asked_until_it_is_tried_again(tmp_path: Path) -> None:
    async def check(store: RedisHistory) -> None:
        reasons = []
        for _ in range(6):
            with pytest.raises(HistoryUnavailable) as failed:
                await store.read("ann")
            reasons.append(failed.value.reason)
        assert reasons == ["unreachable"] * 5 + ["circuit_open"]

    with_redis(f"unix://{tmp_path / 'nothing'}", check)


def test_an_answer_to_another_question_is_refused_and_its_connections_are_closed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(store: RedisHistory) -> None:
        await store.append([EVENT])
        first: list[Any] = []
        execute = store._execute

        async def late(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
            """One answer behind, as a connection is that kept one."""
            first.append(await execute(commands))
            return list(first[max(len(first) - 2, 0)])

        monkeypatch.setattr(store, "_execute", late)
        known = await store.read("ann")
        with pytest.raises(HistoryUnavailable) as failed:
            await store.read("ann", known)
        assert failed.value.reason == "mixed_up"
        assert not any(c.is_connected for c in store._redis.connection_pool._available_connections)

    with_redis(redis_url, check)


def test_a_user_with_few_rights_and_a_ca_of_ones_own_are_parts_of_the_url(redis: RedisServer, tmp_path: Path) -> None:
    (documented,) = re.findall("^ACL SETUSER .*$", (ROOT / "docs/serving.md").read_text(), re.MULTILINE)
    assert redis.ask(documented.replace("PASSWORD", "se/cret")) == b"+OK\r\n"
    ca = make_ca(tmp_path)

    async def check() -> None:
        server = await asyncio.start_server(partial(forward, redis), "127.0.0.1", 0, ssl=server_context(tmp_path))
        port = server.sockets[0].getsockname()[1]
        for user, ca_file, reason in (
            ("shop:se%2Fcret", ca, None),
            ("shop:no", ca, "denied"),
            ("shop:se%2Fcret", None, "unreachable"),
        ):
            options = f"?ssl_ca_certs={quote(str(ca_file))}" if ca_file else ""
            store = RedisHistory(f"rediss://{user}@localhost:{port}/0{options}", 5.0, 1.0)
            found: str | None = None
            try:
                await store.append([EVENT])
                assert (await store.read("ann")).events[0] == EVENT
            except HistoryUnavailable as error:
                found = error.reason
            assert found == reason
            await store.close()
        server.close()

    asyncio.run(asyncio.wait_for(check(), 30))


async def forward(redis: RedisServer, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    answers, to_redis = await asyncio.open_unix_connection(str(redis.socket))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                sink.write(piece)
        sink.close()

    await asyncio.gather(pump(client, to_redis), pump(answers, to_client))


def make_ca(directory: Path) -> Path:
    """A certificate for localhost that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (directory / "ca.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(plain)
    return directory / "ca.pem"


def server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "ca.pem", directory / "key.pem")
    return context
