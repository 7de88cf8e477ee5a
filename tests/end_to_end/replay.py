"""Sends the recorded requests to real servers of the tiny shop, and compares answers with those recorded."""

import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.end_to_end.sent import TOKEN_OF, Sent, Server

Answer = dict[str, Any]  # name, request (a checksum of what was sent), status, headers, body

# What two runs cannot have in common: whatever stands in these fields is not recorded.
UNEQUAL_FIELDS = {"recommendation_id", "request_id", "took_ms", "heartbeat_age_s"}
# Recorded for the reader, not compared: a sentence may be put better.
WORDING = {"message", "reason", "problem"}
HEADERS = ("content-type", "connection", "location", "retry-after", "www-authenticate")
# Of a score, relative to it where it is above 1.
SAME_MACHINE, OTHER_MACHINE = 1e-6, 1e-5  # other processors add in another order: 5e-6 from AVX-512 to SSE
SETTINGS = {
    "TWOTOWER_TORCH_THREADS": "1",
    "TWOTOWER_VERIFY_SHARE": "0",
    "TWOTOWER_MAX_DELTA_ITEMS": "20",
    "TWOTOWER_POLL_S": "3600",
    # A busy machine must not refuse what a quiet one answers.
    "TWOTOWER_MAX_WAIT_S": "60",
    "TWOTOWER_REQUEST_TIMEOUT_S": "60",
    "TWOTOWER_HEARTBEAT_LIMIT_S": "60",
}
KEYS = """
[[keys]]
id = "{id}"
sha256 = "{sha256}"
scopes = {scopes}
{more}
"""


@contextmanager
def servers(store: Path, releases: Mapping[str, str], directory: Path) -> Iterator[dict[Server, HTTPConnection]]:
    """A connection to each; `store` holds the releases, placeholder -> id, and its pointer is moved."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # takes connections, answers nothing
        with socket.create_server(("127.0.0.1", 0)) as free:
            admin_port = free.getsockname()[1]
        arms = directory / "arms.toml"
        pinned = list(releases.values())[1]
        arms.write_text(f'[[arms]]\nname = "one"\npercent = 50\n[[arms]]\nname = "two"\npercent = 50\nrelease = "{pinned}"\n')
        plain = ["--history", f"sqlite:///{directory / 'plain.db'}"]
        guarded = ["--history", f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "--keys", str(write_keys(directory))]
        guarded += ["--admin-port", str(admin_port), "--variants", str(arms)]
        started = [
            stack.enter_context(server(store, plain, body_timeout_s=60)),
            stack.enter_context(server(store, guarded, body_timeout_s=1)),
        ]
        ports = [listening(process) for process in started]
        addressed: dict[Server, int] = {"plain": ports[0], "guarded": ports[1], "admin": admin_port}
        yield {
            name: stack.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=60))) for name, port in addressed.items()
        }


@contextmanager
def server(store: Path, arguments: list[str], body_timeout_s: float) -> Iterator["subprocess.Popen[str]"]:
    """A server process until the block ends."""
    command = [sys.executable, "-m", "twotower.cli", "serve", "--store", str(store), "--port", "0", *arguments]
    settings = {**os.environ, **SETTINGS, "TWOTOWER_BODY_TIMEOUT_S": str(body_timeout_s)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=settings)
    assert process.stdout
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def listening(process: "subprocess.Popen[str]") -> int:
    """The port of a server, once it answers."""
    assert process.stdout
    line = process.stdout.readline()
    address = re.search(r"http://\S+?:(\d+)", line)
    assert address, f"the server did not start: {line}"
    return int(address[1])


def write_keys(directory: Path) -> Path:
    """A file of keys whose secret is `secret of ID`."""
    scopes = {
        "reader": ["recommend"],
        "writer": ["events:write"],
        "boss": ["recommend", "events:write", "users:delete", "admin", "metrics"],
        "old": ["recommend"],
        "slow": ["recommend"],
    }
    more = {"old": "expires = 2020-01-01T00:00:00Z", "slow": "rate = 0.001\nburst = 2"}
    entries = [
        KEYS.format(id=name, sha256=sha256(f"secret of {name}".encode()).hexdigest(), scopes=given, more=more.get(name, ""))
        for name, given in scopes.items()
    ]
    path = directory / "keys.toml"
    path.write_text("".join(entries))
    return path


def replay(sent: Sequence[Sent], connections: Mapping[Server, HTTPConnection], names: Mapping[str, str]) -> Iterator[Answer]:
    """The answer to each request, less what no two runs have in common; `names` are placeholders of ids."""
    tokens: dict[str, str] = {}
    for one in sent:
        body, headers = encoded(one, tokens, names)
        deadline_s = time.monotonic() + 60
        while True:
            status, received, content = ask(connections[one.server], one.method, one.path, body, headers)
            text = with_placeholders(content.decode("utf-8", "replace"), names)
            if one.until in text or time.monotonic() > deadline_s:
                break
            time.sleep(0.05)
        answer = parsed(text, received.get("content-type", ""))
        if isinstance(answer, dict) and answer.get("next_page_token"):
            tokens[one.name] = answer["next_page_token"]
        named = {name: received[name] for name in HEADERS if name in received}
        if status == 429:
            named["retry-after"] = "<seconds>"
        if "X-Request-ID" in one.headers:
            named["x-request-id"] = (
                "the caller's" if received.get("x-request-id") == one.headers["X-Request-ID"] else "a fresh one"
            )
        yield {
            "name": one.name,
            "request": checksum(one),
            "status": status,
            "headers": named,
            "body": masked(answer),
        }


def encoded(one: Sent, tokens: Mapping[str, str], names: Mapping[str, str]) -> tuple[bytes | None, dict[str, str]]:
    """Body and headers as sent."""
    if one.body is None or isinstance(one.body, bytes):
        return one.body, dict(one.headers)
    body = one.body
    if isinstance(body, dict):
        token = body.get("page_token")
        if isinstance(token, str) and token.startswith(TOKEN_OF):
            body = body | {"page_token": tokens[token.removeprefix(TOKEN_OF)]}
        if body.get("release") in names:
            body = body | {"release": names[body["release"]]}
    return json.dumps(body).encode(), {"Content-Type": "application/json", **one.headers}


def ask(
    connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; once more on a new connection where the server had closed the old one."""
    for attempt in (1, 2):
        try:
            connection.request(method, path, body, dict(headers))
            response: HTTPResponse = connection.getresponse()
            content = response.read()
        except (HTTPException, OSError):
            connection.close()
            if attempt == 2:
                raise
        else:
            break
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def checksum(one: Sent) -> str:
    """Tells a recorded request from another of its name."""
    told = [one.method, one.path, one.body.hex() if isinstance(one.body, bytes) else one.body, dict(one.headers), one.server]
    return f"{zlib.crc32(json.dumps(told).encode()):08x}"


def with_placeholders(text: str, names: Mapping[str, str]) -> str:
    """The text without ids that hang on the versions of what is installed."""
    for placeholder, known in names.items():
        text = text.replace(known, placeholder)
    return text


def parsed(text: str, kind: str) -> Any:
    """A body as it is compared: of metrics their names, of a page nothing, of the OpenAPI document its routes and statuses."""
    if kind.startswith("text/html"):
        return "<page>"
    if "version=0.0.4" in kind:
        # A metric's time of creation is listed only once its labels were used.
        return sorted(n for n in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if not n.endswith("_created"))
    if not kind.startswith("application/json") or not text:
        return text
    body = json.loads(text)
    if isinstance(body, dict) and "openapi" in body:
        found = {f"{m} {path}": sorted(one["responses"]) for path, methods in body["paths"].items() for m, one in methods.items()}
        return dict(sorted(found.items()))
    return body


def masked(value: Any) -> Any:
    """The value without what two runs cannot have in common, numbers to nine digits."""
    if isinstance(value, dict):
        masks = {name: "<any>" for name in UNEQUAL_FIELDS & value.keys() if value[name] is not None}
        masks |= {"next_page_token": "<token>"} if value.get("next_page_token") else {}
        return {name: masks.get(name) or masked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def machine() -> str:
    """What rounds: the processor, and the versions of what computes."""
    known = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", known.read_text() if known.exists() else "", re.MULTILINE)
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind} {model[1] if model else ''} torch {torch.__version__} numpy {np.__version__}"


def differences(recorded: Any, now: Any, tolerance: float, path: str = "") -> Iterator[tuple[str, str]]:
    """Where two answers differ: the path of the field, and both values."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in [*recorded, *(name for name in now if name not in recorded)]:
            if name in WORDING and isinstance(recorded.get(name), str) and isinstance(now.get(name), str):
                continue
            inner = f"{path}.{name}" if path else name
            yield from differences(recorded.get(name, "<absent>"), now.get(name, "<absent>"), tolerance, inner)
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for place, (one, other) in enumerate(zip(recorded, in_recorded_order(recorded, now, tolerance), strict=True)):
            yield from differences(one, other, tolerance, f"{path}[{place}]")
    elif isinstance(recorded, float) and isinstance(now, float):
        if not is_near(recorded, now, tolerance):
            yield path, f"recorded {recorded!r}, now {now!r}"
    elif type(recorded) is not type(now) or recorded != now:
        yield path, f"recorded {json.dumps(recorded)}, now {json.dumps(now)}"


def is_near(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers are equal but for rounding."""
    return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))


def in_recorded_order(recorded: list[Any], now: list[Any], tolerance: float) -> list[Any]:
    """Items that changed places are swapped back where their scores are so near that rounding may decide which is first.

    Equal scores are no such case: they are ordered by row.
    """
    result = list(now)
    for place, one in enumerate(recorded):
        score = score_of(result[place])
        if score is None or score_of(one) is None or one["item_id"] == result[place]["item_id"]:
            continue
        if score_of(one) in {score_of(other) for other in recorded if other is not one}:
            continue
        for later in range(place + 1, len(result)):
            if result[later]["item_id"] == one["item_id"] and is_near(score_of(result[later]) or 0.0, score, tolerance):
                result[place], result[later] = result[later], result[place]
                break
    return result


def score_of(entry: Any) -> float | None:
    """The score of an item of an answer; None for anything else."""
    return entry.get("score", entry.get("log_probability")) if isinstance(entry, dict) and "item_id" in entry else None
