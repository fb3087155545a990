"""The machine's Chromium, driven over its own protocol through a websocket: no other library, no network."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from websockets.sync.client import ClientConnection, connect

REMEDY = "Chromium is not installed: apt-get install --no-install-recommends chromium fonts-dejavu-core"
NAMES = ("chromium", "chromium-browser", "google-chrome")
START_S = 60.0
DRAW_S = 60.0
STOP_S = 30.0
Tree = dict[str, Any]


def binary() -> str | None:
    """Return the browser of this machine, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Look(NamedTuple):
    """What one visit to a page showed."""

    requests: tuple[str, ...]
    errors: tuple[str, ...]


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, connection: ClientConnection, session: str) -> None:
        """Take over a tab."""
        self._connection, self._session = connection, session
        self._ids = itertools.count(1)
        self._requests: list[str] = []
        self._errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> Tree:
        """Send one command and return its result; events that come meanwhile are noted."""
        at = next(self._ids)
        self._connection.send(json.dumps({"id": at, "method": method, "params": params, "sessionId": self._session}))
        while True:
            answer: Tree = json.loads(self._connection.recv(timeout=DRAW_S))
            if answer.get("id") == at:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: Tree = answer["result"]
                return result
            self._note(answer)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def visit(self, page: Path, *, ready: str) -> Look:
        """Open a file, wait until an expression is true, and return what was requested and what went wrong."""
        self._requests.clear()
        self._errors.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait(ready)
        return self.look()

    def wait(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + DRAW_S
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"still not true: {expression}; {self.look()}"

    def look(self) -> Look:
        """Return what was noted since the page was opened."""
        return Look(tuple(self._requests), tuple(self._errors))

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save a picture of the page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, event: Tree) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self._requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self._errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self._errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self._errors.append(params["entry"]["text"])
            case _:
                pass


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(prefix="ballast-chromium-", ignore_cleanup_errors=True) as profile:
        command = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "about:blank",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                address = _address(Path(profile) / "DevToolsActivePort", process)
                with connect(address, max_size=None, proxy=None, open_timeout=START_S) as connection:
                    yield Browser(connection, _tab(connection))
            finally:
                process.terminate()
                try:
                    process.wait(timeout=STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def _address(path: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
    raise AssertionError(f"Chromium opened no port within {START_S} s")


def _tab(connection: ClientConnection) -> str:
    """Return the session of a new tab."""

    def ask(at: int, method: str, **params: object) -> Tree:
        connection.send(json.dumps({"id": at, "method": method, "params": params}))
        while True:
            answer: Tree = json.loads(connection.recv(timeout=START_S))
            if answer.get("id") == at:
                result: Tree = answer["result"]
                return result

    target = ask(1_000_001, "Target.createTarget", url="about:blank")["targetId"]
    return str(ask(1_000_002, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
