"""A proxy in front of Redis that does to its answers what networks do."""

import asyncio
import socket
import struct
from types import TracebackType

from tests.service.redis_server import RedisServer


class FaultProxy:
    """Faults are switched by attributes and concern bytes that come later; connections are counted."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.cut_after: int | None = None  # bytes of answers on one connection, which is then closed
        self.reset = False  # cut by RST and not by FIN
        self.num_connections = 0
        self.num_questions = 0
        self.longest = 0  # bytes of answers on one connection

    @property
    def url(self) -> str:
        """What to connect to."""
        host, port = self._socket.getsockname()
        return f"redis://{host}:{port}/0"

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            redis, to_redis = await asyncio.open_unix_connection(str(self._redis.socket))
        except OSError:
            to_client.close()
            return
        for pump in (self._ask(client, to_redis), self._answer(redis, to_client)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _ask(self, client: asyncio.StreamReader, to_redis: asyncio.StreamWriter) -> None:
        try:
            while piece := await client.read(65536):
                self.num_questions += 1  # a short one comes in one piece
                to_redis.write(piece)
        except OSError:
            pass
        finally:
            to_redis.close()

    async def _answer(self, redis: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        sent = 0
        try:
            while piece := await redis.read(65536):
                await asyncio.sleep(self.delay_s)
                if self.cut_after is not None:
                    piece = piece[: max(self.cut_after - sent, 0)]
                to_client.write(piece)
                await to_client.drain()
                sent += len(piece)
                self.longest = max(self.longest, sent)
                if sent == self.cut_after:
                    break
        except OSError:
            pass
        finally:
            if self.reset:
                option = struct.pack("ii", 1, 0)
                to_client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            to_client.close()
