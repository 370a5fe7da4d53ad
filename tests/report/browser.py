"""A headless Chromium driven over the WebDriver protocol, with nothing but the standard library."""

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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1280,900",
)


class Browser:
    """One session."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        settings = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": list(OPTIONS), "binary": CHROMIUM},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        answer = self._post("/session", {"capabilities": {"alwaysMatch": settings}})
        self.session = f"/session/{answer['sessionId']}"

    def open(self, page: Path) -> None:
        self._post(f"{self.session}/url", {"url": page.as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """Run the body of a function in the page and return what it returns."""
        body = {"script": script, "args": list(arguments)}
        return self._post(f"{self.session}/execute/sync", body)

    def press(self, key: str) -> None:
        """Press a key, as a keyboard would."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._post(f"{self.session}/actions", {"actions": [source]})

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def log(self) -> list[dict[str, Any]]:
        """What the console has said since the last call."""
        said: list[dict[str, Any]] = self._post(f"{self.session}/se/log", {"type": "browser"})
        return said

    def accessible(self) -> list[dict[str, Any]]:
        """The tree that a screen reader is given."""
        tree: list[dict[str, Any]] = self._devtools("Accessibility.getFullAXTree", {})["nodes"]
        return tree

    def screenshot(self, path: Path) -> None:
        """The whole page, not just the window."""
        shot = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        request = urllib.request.Request(self.root + self.session, method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        body = {"cmd": command, "params": parameters}
        return self._post(f"{self.session}/goog/cdp/execute", body)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, method="POST")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"{path}: {error.read().decode()[:500]}") from error


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a driver on a free port, and end it and its browser."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert DRIVER is not None
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port)
        browser = Browser(port)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)


def _wait(port: int) -> None:
    """Until the driver listens."""
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
