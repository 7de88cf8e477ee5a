"""Drives a headless Chromium over the DevTools protocol: real pages, real clicks and keys, and everything that they load."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_TIMEOUT_S, ANSWER_TIMEOUT_S = 60.0, 60.0
# A root user has no sandbox; nothing but our own pages is opened. The browser itself must ask nobody anything.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-allow-origins=*",
    "--remote-debugging-port=0",
)
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "Delete": ("Delete", 46, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    " ": ("Space", 32, " "),
}
ALT = 1  # as `modifiers` of a key


def find_chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(slots=True)
class Page:
    """One tab, and what has happened in it so far."""

    socket: websocket.WebSocket
    complaints: list[str] = field(default_factory=list)  # errors and warnings of the console, and exceptions
    requests: list[str] = field(default_factory=list)  # addresses asked for, in order
    sizes: dict[str, int] = field(default_factory=dict)  # bytes received, by address
    _addresses: dict[str, str] = field(default_factory=dict)
    _number: int = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the protocol; RuntimeError when the browser refuses it."""
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}".strip())
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
                self._addresses[told["requestId"]] = told["request"]["url"]
            case "Network.loadingFinished" if told["requestId"] in self._addresses:
                url = self._addresses[told["requestId"]]
                self.sizes[url] = self.sizes.get(url, 0) + int(told["encodedDataLength"])

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited. RuntimeError for an exception."""
        told = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails'].get('exception', {}).get('description')}")
        return told["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = 20.0) -> None:
        """Wait until an expression is true; TimeoutError with the expression otherwise."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(RuntimeError):  # the page is between two documents
                if self.evaluate(f"!!({condition})"):
                    return
            time.sleep(0.01)
        raise TimeoutError(f"never true in {timeout_s} s: {condition}; the console says {self.complaints}")

    def place(self, selector: str, scroll: bool = True) -> tuple[float, float]:
        """The middle of an element, scrolled into view first; LookupError when there is no such element."""
        found = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            f"if ({json.dumps(scroll)}) e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            "const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        if found is None:
            raise LookupError(f"the page has no {selector}")
        return float(found[0]), float(found[1])

    def click(self, selector: str) -> None:
        """Click on the middle of an element, as a mouse does: whatever lies on top there gets it."""
        x, y = self.place(selector)
        self._mouse("mouseMoved", x, y)
        self._mouse("mousePressed", x, y, button="left", clickCount=1)
        self._mouse("mouseReleased", x, y, button="left", clickCount=1)

    def drag(self, selector: str, onto: str) -> None:
        """Drag an element with the mouse, a bit beyond the middle of another one that is seen at the same time."""
        from_x, from_y = self.place(selector)
        to_x, to_y = self.place(onto, scroll=False)
        to_y += 3 if to_y > from_y else -3
        self._mouse("mouseMoved", from_x, from_y)
        self._mouse("mousePressed", from_x, from_y, button="left", clickCount=1)
        for share in (0.2, 0.5, 0.8, 1.0):
            x, y = from_x + share * (to_x - from_x), from_y + share * (to_y - from_y)
            self._mouse("mouseMoved", x, y, button="left", buttons=1)
        self._mouse("mouseReleased", to_x, to_y, button="left", clickCount=1)

    def _mouse(self, kind: str, x: float, y: float, **parameters: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **parameters)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release one of KEYS."""
        code, number, text = KEYS[key]
        named = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        text = "" if modifiers else text
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **named)
        self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.send("Input.insertText", text=text)

    def show_as(self, width: int, height: int, scheme: str = "light", scale: float = 1.0, motion: bool = True) -> None:
        """Set the size of the window and the preferred colours, and whether things may move."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)
        preferred = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "no-preference" if motion else "reduce"},
        ]
        self.send("Emulation.setEmulatedMedia", features=preferred)

    def picture(self, path: Path, selector: str | None = None, quality: int = 82) -> None:
        """Save what is seen, or one element with a margin, as a WebP file."""
        options: dict[str, Any] = {"format": "webp", "quality": quality}
        if selector:
            box = self.evaluate(
                f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                "return {x: b.left + scrollX, y: b.top + scrollY, width: b.width, height: b.height}; })()"
            )
            options |= {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", **options)["data"]))


@contextmanager
def browser(flags: Sequence[str] = ()) -> Iterator["Browser"]:
    """A running Chromium with a profile of its own; SystemExit where none is installed."""
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium is installed; on Debian and Ubuntu: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Browser(_port(Path(profile) / "DevToolsActivePort", process))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Browser:
    """A running Chromium, by the port of its DevTools."""

    port: int

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A tab with cookies, storage and cache of its own run."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as reply:
            target = json.loads(reply.read())
        page = Page(websocket.create_connection(target["webSocketDebuggerUrl"], timeout=ANSWER_TIMEOUT_S))
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send("Page.bringToFront")
        try:
            yield page
        finally:
            page.socket.close()
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/close/{target['id']}", timeout=10).close()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"Chromium ended with {process.returncode} before it was ready")
        with suppress(FileNotFoundError, ValueError, IndexError):
            return int(file.read_text().split()[0])
        time.sleep(0.05)
    raise SystemExit(f"Chromium was not ready after {START_TIMEOUT_S:.0f} s")
