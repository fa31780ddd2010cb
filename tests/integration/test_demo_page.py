"""The demo as a newcomer sees it: one command, a live page in a real browser, a killed agent."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.world import data

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("nicegui", reason="needs the dashboard extra")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

CHROMIUM = Path("/usr/bin/chromium")
MODEL = "models/light_person_detector/light_person_detector.onnx"
VIDEO = "video/vtest_pedestrians/vtest.mp4"


@dataclass
class Demo:
    """A running ``edgekit demo`` and what it prints."""

    process: subprocess.Popen[str]
    folder: Path
    url: str = ""
    lines: list[str] = field(default_factory=list)

    def wait_for_page(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"live page: (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError(f"the demo ended: {''.join(self.lines)}")

    def pid_of(self, device: str) -> int:
        config = str(self.folder / device / "agent.toml")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and config.encode() in _command_line(entry):
                return int(entry.name)
        raise AssertionError(f"no agent of {device} runs")


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    if not CHROMIUM.exists():
        pytest.skip("needs /usr/bin/chromium")
    source = f"file:{data(VIDEO)}?mode=live&loop=1"
    command = [
        sys.executable, "-m", "edgekit", "demo", "--model", str(data(MODEL)), "--source", source,
        "--port", "0", "--folder", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    running = Demo(process, tmp_path)
    try:
        running.wait_for_page()
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.mark.parametrize("device", ["edge-a", "edge-b"])
def test_the_demo_page_shows_boxes_and_moving_numbers_and_names_a_killed_agent_within_2_s(
    demo: Demo, device: str
) -> None:
    """The README's picture, proved; edge-a films, edge-b answers."""
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        problems: list[str] = []
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if re.match(
                    r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:", request.url
                )
                else problems.append(f"outside request {request.url}")
            ),
        )
        page.goto(demo.url)
        page.wait_for_selector(".ek-box", state="attached", timeout=20_000)
        first = page.inner_text("#ek-fps")
        page.wait_for_function(
            "before => document.querySelector('#ek-fps').innerText !== before",
            arg=first,
            timeout=15_000,
        )
        assert re.search(r"\d", page.inner_text("#ek-p50"))
        assert "edge-a" in page.inner_text("#ek-strip")
        os.kill(demo.pid_of(device), signal.SIGKILL)
        killed_s = time.perf_counter()
        page.wait_for_function(
            "device => { const e = document.querySelector('#ek-alert');"
            " return e && e.innerText.includes(device); }",
            arg=device,
            timeout=2_000,
        )
        assert time.perf_counter() - killed_s < 2.5
        # The demo starts it again, as systemd does on a board; the alert goes, boxes come back.
        page.wait_for_function(
            "device => { const e = document.querySelector('#ek-alert');"
            " return !e || !e.innerText.includes(device); }",
            arg=device,
            timeout=15_000,
        )
        page.wait_for_selector(".ek-box", state="attached", timeout=10_000)
        if folder := os.environ.get("EDGEKIT_SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / "demo.png"))
        browser.close()
    assert problems == []
