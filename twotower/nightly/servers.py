"""What servers say of a release: asked over HTTP, with the API key of an operator."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from twotower.errors import EnvironmentProblem

TIMEOUT_S = 10.0
DNS = "dns+"  # before the address of a name that has an address for each server, such as a headless Service of Kubernetes
Json = dict[str, Any]


class Silent(Exception):
    """A server did not answer, or not as it should. `may_pass` is whether the same request can succeed a little later."""

    def __init__(self, message: str, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Server:
    """One server process, by the address of its admin port."""

    url: str
    key: str | None = None

    def releases(self) -> Json:
        """The answer to GET /v1/releases."""
        return self._ask("GET", "/v1/releases")

    def look(self) -> None:
        """Let the server look at the store now, rather than at its next poll."""
        self._ask("POST", "/v1/admin/refresh", b"{}")

    def forget(self, user_id: str) -> int:
        """Let the server delete a user from its store and its memory; returns how many events the store ever had."""
        answer = self._ask("DELETE", f"/v1/users/{quote(user_id, safe='')}")
        return int(answer["deleted_events"])

    def store(self, events: Sequence[Json]) -> Json:
        """The answer to POST /v1/events, also when every event is rejected."""
        return self._ask("POST", "/v1/events", json.dumps({"events": events}).encode(), also=422)

    def _ask(self, method: str, path: str, body: bytes | None = None, also: int | None = None) -> Json:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.url.rstrip("/") + path, body, headers, method=method)  # noqa: S310 - http(s) only
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                result: Json = json.loads(answer.read())
                return result
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise EnvironmentProblem(f"{self.url} refuses the API key, or wants one: name its file ({error.code})") from error
            if error.code == also:
                refused: Json = json.loads(error.read())
                return refused
            raise Silent(f"{self.url} answered with status {error.code}", error.code == 429 or error.code >= 500) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Silent(f"{self.url} does not answer: {getattr(reason, 'strerror', None) or reason}") from error


def servers_of(urls: tuple[str, ...], key_file: Path | None) -> list[Server]:
    """The servers that there are now: EnvironmentProblem when the key cannot be read, Silent when a name has no address."""
    try:
        key = key_file.read_text().strip() if key_file else None
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the API key in {key_file}: {error.strerror or error}") from error
    return [Server(address, key) for url in urls for address in addresses(url)]


def addresses(url: str) -> tuple[str, ...]:
    """The addresses that a `dns+http://NAME:PORT` stands for, those of IPv4 if there are any; Silent when the name has none."""
    if not url.startswith(DNS):
        return (url,)
    parts = urlsplit(url.removeprefix(DNS))
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Silent(f"{url} names no server: {error.strerror or error}") from error
    families = {one[0] for one in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6  # a server with both is asked once
    hosts = sorted({str(one[4][0]) for one in found if one[0] == family})
    return tuple(f"http://{f'[{host}]' if ':' in host else host}:{parts.port or 80}" for host in hosts)
