"""A real browser that is told what to do by its debugging pipe: pointer, keys, sizes, what is on its page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from platforms import BROWSER

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
# it reads from 3 and writes to 4
NUMBERED = "import os, sys; [os.dup2(int(sys.argv[at]), at + 2) for at in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "b": 66}


class Renewed(Exception):
    """The page was loaded anew while it was asked."""


class Page:
    """One page; `complaints` are errors in it and what its policy has kept off."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._number = write, read, b"", 0
        self._session = dict[str, str]()
        self.complaints = list[str]()

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(json.dumps(answer["params"]))
            if answer.get("id") == self._number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Renewed
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has ended"
            self._rest += chunk
        one, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(one)
        return answer

    def open(self, place: Path, size: tuple[int, int], *, dark: bool, before: str) -> None:
        """Show a file; the script `before` runs first, whatever the page's policy says."""
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")
        width, height = size
        phone = width < 500
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.tell("Page.navigate", url=place.as_uri())
        self.until("document.readyState === 'complete'")

    def js(self, code: str) -> Any:
        """What an expression is, or becomes."""
        answer = self.tell("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, code: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self._true(code):
            assert time.monotonic() < deadline, code
            time.sleep(0.05)

    def _true(self, code: str) -> bool:
        with suppress(Renewed):
            return bool(self.js(code))
        return False

    def key(self, key: str) -> None:
        """Press one."""
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def point(self, what: str, *, across: float = 0.5, click: bool = False) -> None:
        """Move the mouse onto what a selector finds first, so far across it, and click."""
        self.js(f"document.querySelector({what!r}).scrollIntoView({{block: 'center'}})")
        box = f"(() => {{ const b = document.querySelector({what!r}).getBoundingClientRect();"
        x, y = self.js(f"{box} return [b.left + b.width * {across}, b.top + b.height / 2]; }})()")
        for kind in ["mouseMoved", *(["mousePressed", "mouseReleased"] if click else [])]:
            button = "none" if kind == "mouseMoved" else "left"
            self.tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=int(button == "left"))


@contextmanager
def browsing(
    place: Path, profile: Path, size: tuple[int, int] = (1300, 900), *, dark: bool = False, before: str = ""
) -> Iterator[Page]:
    """A page on a screen of so many pixels."""
    assert BROWSER
    (theirs, write), (read, answers) = os.pipe(), os.pipe()
    argv = [sys.executable, "-c", NUMBERED, str(theirs), str(answers), BROWSER, *FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(
        argv, pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            os.close(theirs)
            os.close(answers)
            page = Page(write, read)
            page.open(place, size, dark=dark, before=before)
            yield page
        finally:
            process.kill()
            os.close(write)
            os.close(read)
