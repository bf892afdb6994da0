"""A real browser without a screen, and what a page makes it do: requests, errors, pictures, and what a reader hears.

Driven over the DevTools protocol by choreographer, which draws the chart files of a report as well.
"""

import asyncio
import base64
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from choreographer import Browser as Choreographer
from choreographer.protocol.devtools_async import Session

SECONDS = 200.0  # for one command, on a machine that is busy with ten other things
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """The path of a Chromium: that which `make test` provides, or one in the PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = next(filter(None, (shutil.which(name, path=places) for name in NAMES)), None)
    assert found, "no Chromium: make test fetches one; or apt-get install chromium"
    return found


class Browser:
    """One process of Chromium. It belongs to the test session: starting it takes a second or two."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._browser = Choreographer(path=chromium(), headless=True)
        self.do(self._browser.open())

    def do(self, what: Any) -> Any:
        return self._runner.run(asyncio.wait_for(what, SECONDS))

    @contextmanager
    def tab(self) -> Iterator["Tab"]:
        """An empty tab of a desktop."""
        tab = self.do(self._browser.create_tab("about:blank"))
        try:
            yield Tab(self, next(iter(tab.sessions.values())))
        finally:
            self.do(self._browser.close_tab(tab))

    def close(self) -> None:
        self.do(self._browser.close())
        self._runner.close()


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: Session):
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self(f"{domain}.enable")
        self.look()

        async def requested(message: Any) -> None:
            self.requests.append(message["params"]["request"]["url"])

        async def failed(message: Any) -> None:
            self.errors.append(str(message["params"]))

        session.subscribe("Network.requestWillBeSent", requested)
        for event in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
            session.subscribe(event, failed)

    def __call__(self, command: str, **values: Any) -> Any:
        """The result of a DevTools command."""
        answer = self._browser.do(self._session.send_command(command, values))
        assert "error" not in answer, (command, answer["error"])
        return answer["result"]

    def look(self, width: int = 1280, height: int = 900, **features: str) -> None:
        """Have a screen of that size; `features` are CSS media features, such as prefers_color_scheme="dark"."""
        is_phone = width < 600
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone)
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self("Emulation.setEmulatedMedia", features=media)

    def open(self, path: Path) -> None:
        """Load a file and wait until all of its scripts have run."""

        async def load() -> None:
            loaded = self._session.subscribe_once("Page.loadEventFired")
            await self._session.send_command("Page.navigate", {"url": path.resolve().as_uri()})
            await loaded

        self._browser.do(load())

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        said = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a person would who has no mouse."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "End": 35}
        for kind in ("keyDown", "keyUp"):
            text = {"text": {"Enter": "\r", " ": " "}[key]} if kind == "keyDown" and key in ("Enter", " ") else {}
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def picture(self, whole: bool = False) -> bytes:
        """What is seen, or the page down to its end, as PNG."""
        return base64.b64decode(self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def colours(self, picture: bytes) -> tuple[int, list[int]]:
        """How many colours a PNG has, and its first pixel: red, green, blue. In an empty page: others forbid it."""
        source = "data:image/png;base64," + base64.b64encode(picture).decode()
        script = f"""(async () => {{
            const image = Object.assign(new Image(), {{src: "{source}"}}); await image.decode();
            const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
            return [new Set(pixels).size, [0, 8, 16].map((bits) => pixels[0] >> bits & 255)];
        }})()"""
        count, first = self.evaluate(script)
        return count, first

    def pdf(self) -> bytes:
        return base64.b64decode(self("Page.printToPDF", printBackground=True)["data"])

    def heard(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What a screen reader is told: role, name and properties of each thing, in order."""
        return [
            (
                node["role"]["value"],
                node.get("name", {}).get("value", ""),
                {one["name"]: one["value"].get("value") for one in node.get("properties", [])},
            )
            for node in self("Accessibility.getFullAXTree")["nodes"]
            if not node["ignored"]
        ]
