"""A real browser for tests: Chromium, driven over the DevTools protocol on a pair of pipes. No package is needed.

`--remote-debugging-pipe` reads commands from descriptor 3 and writes answers to descriptor 4, JSON ended by NUL bytes
(chrome/browser/devtools, "remote debugging pipe").
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Puts the pipes where the browser looks for them.
START = "import os, sys; _, a, b, *run = sys.argv; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execv(run[0], run)"
PATIENCE_S = 60.0  # a busy machine is not a defect


def chromium() -> str | None:
    """Where a Chromium is: PREROUTER_TEST_BROWSER, else on the PATH."""
    return next(filter(None, map(shutil.which, (os.environ.get("PREROUTER_TEST_BROWSER", ""), *NAMES))), None)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        target = browser.command("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = browser.command("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.command("Page.enable")
        self.command("Runtime.enable")
        self.command("Log.enable")
        self.command("Page.navigate", {"url": url})

    def command(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.command(method, params, self._session)

    def value(self, script: str) -> Any:
        """What `script` evaluates to."""
        options = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self.command("Runtime.evaluate", options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until `script` evaluates to true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(f"Boolean({script})"):
            assert time.monotonic() < end, f"{script} stayed false; the page: {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key, as a person would."""
        code = {"key": key, "windowsVirtualKeyCode": 13 if key == "Enter" else ord(key.upper())}
        text = "\r" if key == "Enter" else key
        self.command("Input.dispatchKeyEvent", {"type": "keyDown", "text": text, **code})
        self.command("Input.dispatchKeyEvent", {"type": "keyUp", **code})

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        where = f"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector({json.dumps(selector)})"
        x, y = self.value(f"{where}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})

    def screenshot(self, path: Path) -> None:
        """A picture of the page."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))

    @property
    def complaints(self) -> list[str]:
        """What the browser has complained about: script errors, files and actions that its policy refused."""
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        texts = [e["params"]["exceptionDetails"]["text"] for e in mine if e["method"] == "Runtime.exceptionThrown"]
        entries = [e["params"]["entry"] for e in mine if e["method"] == "Log.entryAdded"]
        return texts + [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]


class Browser:
    """Chromium under way. Make it with `browser`."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._numbers, self._rest = write, read, itertools.count(1), b""
        self.events: list[dict[str, Any]] = []

    def page(self, url: str) -> Page:
        """A new tab at `url`."""
        return Page(self, url)

    def command(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params or {}}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        for said in self._messages():
            if said.get("id") == number:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result
            if "method" in said:
                self.events.append(said)
        raise AssertionError("the browser has gone")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self._rest:
                message, self._rest = self._rest.split(b"\0", 1)
                yield json.loads(message)
            assert select.select([self._read], [], [], PATIENCE_S)[0], "the browser does not answer"
            data = os.read(self._read, 1 << 20)
            if not data:
                return
            self._rest += data


@contextmanager
def browser(profile: Path, size: tuple[int, int] = (1280, 800)) -> Iterator[Browser]:
    """Chromium with a fresh profile in `profile`, headless."""
    flags = ("--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage")
    quiet = ("--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--mute-audio")
    own = (f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}", "--remote-debugging-pipe")
    theirs, write = os.pipe()
    read, their_write = os.pipe()
    program = chromium()
    assert program
    command = [program, *flags, *quiet, *own]
    given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, their_write)]  # neither is 3 or 4
    with open(profile.with_suffix(".log"), "wb") as log:
        start = [sys.executable, "-c", START, *map(str, given), *command]
        running = subprocess.Popen(start, stdout=log, stderr=log, pass_fds=given)
    for end in (theirs, their_write, *given):
        os.close(end)
    try:
        yield Browser(write, read)
    finally:
        running.terminate()
        running.wait(PATIENCE_S)
        os.close(write)
        os.close(read)
