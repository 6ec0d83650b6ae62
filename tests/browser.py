"""A headless Chromium for the tests marked ``browser``, driven through chromedriver's HTTP protocol (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
CHROMEDRIVER = shutil.which("chromedriver")
ABSENT = " and ".join([*["no Chromium"] * (not CHROMIUM), *["no chromedriver"] * (not CHROMEDRIVER)])
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--enable-unsafe-swiftshader",  # WebGL without a GPU
         "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip
KEYS = {"left": "\ue012", "right": "\ue014", "home": "\ue011", "end": "\ue010", "enter": "\ue007", "tab": "\ue004"}


class Browser:
    """One window. ``open`` a file, then look at it with ``js`` and act on it with ``keys`` and ``click``."""

    def __init__(self, port: int, profile: Path) -> None:
        self.base = f"http://127.0.0.1:{port}"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        for _ in range(100):  # the driver needs a moment to listen
            try:
                answer = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError):
                    raise
                time.sleep(0.1)
        self.base += f"/session/{answer['sessionId']}"

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:500]}") from error

    def open(self, path: Path) -> None:
        self._send("POST", "/url", {"url": path.resolve().as_uri()})

    def js(self, script: str, *args: Any) -> Any:
        """Run the body of a function in the page; arguments[0] ... are ``args``."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(args)})

    def element(self, selector: str) -> str:
        return next(iter(self._send("POST", "/element", {"using": "css selector", "value": selector}).values()))

    def click(self, selector: str) -> None:
        self._send("POST", f"/element/{self.element(selector)}/click", {})

    def keys(self, selector: str, *keys: str) -> None:
        """Type into an element: names of KEYS, or text."""
        self._send("POST", f"/element/{self.element(selector)}/value", {"text": "".join(KEYS.get(key, key) for key in keys)})

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, on whatever has the focus."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": code} for code in codes for kind in ("keyDown", "keyUp")]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def drag(self, selector: str, first: float, last: float) -> None:
        """Press the mouse at a share of the element's width, move to another, let go."""
        box = self.js("const r = document.querySelector(arguments[0]).getBoundingClientRect();"
                      "return [r.left, r.top + r.height / 2, r.width]", selector)  # fmt: skip
        moves = [{"type": "pointerMove", "duration": 20, "x": round(box[0] + share * box[2]), "y": round(box[1])}
                 for share in (first, last)]  # fmt: skip
        actions = [moves[0], {"type": "pointerDown", "button": 0}, moves[1], {"type": "pointerUp", "button": 0}]
        self._send("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def look(self, width: int, height: int, scheme: str) -> None:
        """A window of that size in the scheme light or dark, without motion to wait for; below 500 px it is a telephone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path, whole: bool = False) -> None:
        answer = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(answer["data"]))

    def complaints(self) -> list[str]:
        """What the page has written to the console since the last call: errors, refused scripts and addresses."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        self._send("DELETE", "")


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in ``folder``; both processes are gone when the block ends."""
    assert not ABSENT, ABSENT
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [CHROMEDRIVER, f"--port={port}", f"--log-path={folder / 'chromedriver.log'}"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        browser = Browser(port, folder / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)


def check_fits(page: Browser, width: int, scheme: str) -> None:
    """At ``width`` px nothing sticks out sideways, and the background is that of ``scheme``, "light" or "dark"."""
    page.look(width, 844, scheme)
    assert page.js("return document.documentElement.scrollWidth <= innerWidth")
    back = page.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(back) < 150) == (scheme == "dark")
