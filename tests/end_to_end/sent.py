"""One request as it is sent to the servers of the tiny shop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

T0_MS = 1_743_465_600_000  # 2025-04-01, within the tiny shop's log
TOKEN_OF = "token of "  # a page_token that begins so is the next_page_token of the answer to the request named after it
# The replay puts ids in their place.
FIRST_RELEASE, OTHER_RELEASE, DAMAGED_RELEASE = "<first release>", "<other release>", "<damaged release>"

Server = Literal["plain", "guarded", "admin"]  # one without keys; one with keys, arms and a lost store; its admin port


@dataclass(frozen=True, slots=True)
class Sent:
    """One request. `body` is bytes as they are sent, or a value sent as JSON; None sends no body."""

    name: str
    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    server: Server = "plain"
    until: str = ""  # asked again until the answer holds this text: what happens a moment later
