"""A real Chromium without a window, driven over its own debugging protocol; no library needed.

The protocol (https://chromedevtools.github.io/devtools-protocol/) is JSON, and with
`--remote-debugging-pipe` it comes over two pipes, each message ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "no Chromium was found; install one (Debian: apt-get install chromium), or let the variable "
    "CHROMIUM name the program"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# The pipes of the protocol are descriptors 3 and 4; a shell moves ours there.
SHELL = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null']
PATIENCE_S = 60.0
Position = tuple[float, float]


def chromium() -> str | None:
    """Path of a Chromium, or None; the variable CHROMIUM goes first."""
    named = os.environ.get("CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else PROGRAMS))
    return next((path for path in found if path), None)


class Browser:
    """One Chromium with an empty profile; ends with the `with` block."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(
            prefix="chromium-profile-", ignore_cleanup_errors=True
        )
        command = [*SHELL, program, *FLAGS, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._number = 0
        self.events: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
        except (OSError, RuntimeError, TimeoutError):
            self._process.kill()
        self._process.wait(PATIENCE_S)
        self._profile.cleanup()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := os.read(self._process.stdout.fileno(), 1 << 20):
            *whole, rest = (rest + data).split(b"\0")
            for message in whole:
                self._messages.put(json.loads(message))
        self._messages.put(None)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer; what happens meanwhile is kept as events."""
        assert self._process.stdin is not None
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while True:
            try:
                answer = self._messages.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise TimeoutError(f"Chromium did not answer {method}") from None
            if answer is None:
                raise RuntimeError(f"Chromium ended before it answered {method}")
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, path: Path, width: int = 1200, height: int = 800) -> Page:
        """Opens a file in a tab of its own and waits until it has been loaded and drawn."""
        return Page(self, path.resolve().as_uri(), width, height)


class Page:
    """A tab.

    Attributes:
        url: what was opened.
    """

    def __init__(self, browser: Browser, url: str, width: int, height: int) -> None:
        self.browser, self.url = browser, url
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        self.next_frame()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command to this tab."""
        return self.browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, expression: str) -> Any:
        """The JSON-able value of JavaScript in the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until JavaScript says true."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"waited in vain for {condition}")
            time.sleep(0.01)

    def next_frame(self) -> None:
        """Waits until what was asked for has been drawn; a tab behind another one is not."""
        self.call("Page.bringToFront")
        self.run("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def mouse(self, kind: str, at: Position, **parameters: Any) -> None:
        """One event of the mouse, such as `mousePressed`."""
        self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **parameters)

    def drag(self, start: Position, end: Position) -> None:
        """Presses, moves and lets go; the same place twice is a click."""
        self.mouse("mouseMoved", start)
        self.mouse("mousePressed", start, button="left", buttons=1, clickCount=1)
        if start != end:
            self.mouse("mouseMoved", end, button="left", buttons=1)
        self.mouse("mouseReleased", end, button="left", clickCount=1)
        self.next_frame()

    def click(self, at: Position) -> None:
        """Presses and lets go."""
        self.drag(at, at)

    def wheel(self, at: Position, delta: float) -> None:
        """Turns the wheel; negative is away from the hand."""
        self.mouse("mouseWheel", at, deltaX=0, deltaY=delta)
        self.next_frame()

    def key(self, key: str) -> None:
        """Presses a key, by the name that JavaScript gives it."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.next_frame()

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """Saves what is seen as PNG, or the page's first `height` pixels."""
        clip: dict[str, Any] = {}
        if height is not None:
            width = self.run("document.documentElement.clientWidth")
            area = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            clip = {"captureBeyondViewport": True, "clip": area}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **clip)["data"]))

    def told(self) -> dict[str, list[dict[str, Any]]]:
        """The parameters of all events of this tab so far, by method."""
        self.run("0")  # events before this answer have arrived with it
        found = defaultdict(list)
        for event in self.browser.events:
            if event.get("sessionId") == self._session:
                found[event["method"]].append(event["params"])
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for, its own first."""
        return [event["request"]["url"] for event in self.told()["Network.requestWillBeSent"]]

    def complaints(self) -> list[str]:
        """Exceptions, and what the console shows as a warning or an error."""
        told = self.told()
        console = [e for e in told["Runtime.consoleAPICalled"] if e["type"] in ("error", "warning")]
        log = [e for e in told["Log.entryAdded"] if e["entry"]["level"] in ("error", "warning")]
        return [json.dumps(e) for e in (*told["Runtime.exceptionThrown"], *console, *log)]
