"""The page in a real browser, fed through a real broker.

Needs Mosquitto, NiceGUI, Playwright and the system's Chromium; skipped where one is missing.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from canned import counts, report, status, telemetry
from fake_fleet import FakeFleet
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.spec.base import to_json
from edgekit.spec.messages import Detection
from edgekit.spec.topics import Topics
from edgekit.transport.broker_url import parse_broker_url
from edgekit.transport.mosquitto import MosquittoBroker

pytest.importorskip("nicegui", reason="the page needs the dashboard extra")
sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
QUIET += ["--disable-component-update", "--disable-sync", "--disable-default-apps"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield chromium
        chromium.close()


@contextmanager
def served(broker: str, fleet: str) -> Iterator[str]:
    """The page of ``fleet``, served by a process of its own; yields its address."""
    command = [sys.executable, "-m", "edgekit", "dashboard", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--broker", broker, "--fleet", fleet],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + process.stdout.read()
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


@pytest.fixture(scope="module")
def yard(mosquitto_url: str) -> Iterator[tuple[FakeFleet, str]]:
    """A fleet that lives, and the address of its page; each test leaves it alive."""
    with FakeFleet(mosquitto_url, "yard") as fleet, served(mosquitto_url, "yard") as url:
        yield fleet, url


class Visit:
    """One open page that remembers what went wrong and whom it called."""

    def __init__(self, browser, url: str, *, width_px: int = 1280, height_px: int = 800) -> None:
        self.page = browser.new_page(viewport={"width": width_px, "height": height_px})
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(url)

    def _on_console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def number(self, selector: str) -> float:
        """The number shown; 0 while there is none."""
        digits = re.sub(r"[^0-9.]", "", self.text(selector))
        return float(digits or 0)

    def wait_for(self, selector: str, timeout_s: float = 15) -> None:
        self.page.wait_for_selector(selector, state="attached", timeout=1000 * timeout_s)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 15) -> float:
        """Wait until the page satisfies ``condition``; how long that took [s]."""
        begun_s = time.monotonic()
        while not condition():
            assert time.monotonic() - begun_s < timeout_s, self.page.inner_text("body")
            self.page.wait_for_timeout(50)
        return time.monotonic() - begun_s

    def alert(self) -> str:
        return self.page.locator("#ek-alert").inner_text()


@contextmanager
def listening(broker: str, topic_filter: str) -> Iterator[list[str]]:
    """Topics of all messages that match, as they come."""
    heard: list[str] = []
    with publishing(broker) as client:
        client.on_message = lambda _client, _data, message: heard.append(message.topic)
        client.subscribe(topic_filter)
        yield heard


@contextmanager
def publishing(broker: str) -> Iterator[paho.Client]:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    url = parse_broker_url(broker)
    client.connect(url.host, url.port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def test_the_page_shows_a_living_fleet_and_says_when_it_dies(browser, yard) -> None:
    """The main story: boxes, numbers that move, a killed agent, and its return."""
    fleet, url = yard
    visit = Visit(browser, url)
    visit.wait_for(".ek-box[data-label='person']")
    visit.wait_for(".ek-box[data-label='helmet']")
    visit.wait_until(lambda: visit.number("#ek-fps") > 5)
    assert 30 < visit.number("#ek-p50") <= visit.number("#ek-p95") < 200
    assert visit.text("#ek-state") == "Live" and visit.alert() == ""
    assert "main" in visit.text("#ek-source") and "640 × 400" in visit.text("#ek-source")
    captured, where = visit.number("#ek-captured"), visit.page.inner_html("#ek-video svg")
    visit.wait_until(lambda: visit.number("#ek-captured") > captured)
    visit.wait_until(lambda: visit.page.inner_html("#ek-video svg") != where)
    visit.wait_for("#ek-drops [data-reason='superseded']")
    assert "edge-a → edge-b" in visit.text("#ek-timeline")
    assert "519.2 kB" in visit.text("#ek-timeline")
    strip = visit.text("#ek-strip")
    assert "/backbone/dark4/out float32[1x64x26x26]" in strip
    assert "519.2 kB per frame" in strip and "59 % of the work" in strip
    assert visit.page.locator("#ek-devices .ek-device.ek-green").count() == 2

    fleet.kill(fleet.sink)
    assert visit.wait_until(lambda: "edge-b is offline" in visit.alert()) < 2.0
    assert "edgekit agent --config" in visit.alert()
    visit.wait_until(lambda: re.search(r"offline for [1-9] s", visit.alert()) is not None)
    visit.wait_until(lambda: visit.number("#ek-fps") == 0)
    visit.wait_for("#ek-video.ek-stale")
    visit.wait_for("#ek-drops [data-reason='hop_down']")

    fleet.restart(fleet.sink)
    visit.wait_until(lambda: visit.alert() == "" and visit.text("#ek-state") == "Live")
    visit.wait_for("#ek-video:not(.ek-stale)")
    visit.wait_until(lambda: visit.number("#ek-fps") > 5)
    assert visit.errors == [] and visit.hosts == {url.split("/")[2]}
    visit.page.close()


def test_the_accounts_survive_a_restart_of_the_source(browser, yard) -> None:
    """Its counts begin at zero; the page's do not, and the loss is in the table."""
    fleet, url = yard
    visit = Visit(browser, url)
    visit.wait_until(lambda: visit.number("#ek-captured") > 20)
    fleet.kill(fleet.source)
    visit.wait_until(lambda: "edge-a is offline" in visit.alert(), timeout_s=5)
    before = visit.number("#ek-captured")
    fleet.restart(fleet.source)
    visit.wait_for("#ek-drops [data-reason='agent_restarted']")
    visit.wait_until(lambda: visit.number("#ek-captured") > before)
    names = ("#ek-answered", "#ek-dropped", "#ek-in-flight")
    visit.wait_until(
        lambda: visit.number("#ek-captured") == sum(visit.number(name) for name in names)
    )
    visit.page.close()


def test_a_lost_broker_is_said_and_the_page_recovers(browser) -> None:
    """The viewer's own connection is part of the truth."""
    with (
        MosquittoBroker() as broker,
        FakeFleet(broker.url, "lost"),
        served(broker.url, "lost") as url,
    ):
        visit = Visit(browser, url)
        visit.wait_for(".ek-box")
        broker.close()
        visit.wait_until(lambda: "No connection to the broker" in visit.alert(), timeout_s=5)
        with MosquittoBroker(broker.port):
            visit.wait_until(lambda: "broker" not in visit.alert())
            visit.wait_until(lambda: visit.number("#ek-fps") > 5)
        visit.page.close()


def test_pictures_are_only_asked_for_while_a_page_is_open(
    browser, yard, mosquitto_url: str
) -> None:
    """Three pages together ask no more than one; when all are gone the asking ends."""
    _, url = yard
    with listening(mosquitto_url, Topics(fleet="yard").watch("main")) as heard:
        visits = [Visit(browser, url) for _ in range(3)]
        for visit in visits:
            visit.wait_for(".ek-box")
        count, begun_s = len(heard), time.monotonic()
        visits[0].wait_until(lambda: len(heard) >= count + 2)
        assert len(heard) - count <= (time.monotonic() - begun_s) / 2 + 2
        for visit in visits:
            assert visit.errors == []
            visit.page.close()
        time.sleep(1.2)
        count = len(heard)
        time.sleep(2.2)
        assert len(heard) == count


def test_a_phone_needs_no_sideways_scrolling(browser, yard) -> None:
    """390 px wide, every part below the other."""
    _, url = yard
    visit = Visit(browser, url, width_px=390, height_px=844)
    visit.wait_for(".ek-box")
    visit.wait_for("#ek-strip .ek-cut")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.page.close()


def test_words_from_devices_are_shown_and_never_run(browser, mosquitto_url: str) -> None:
    """Labels, names and problems come over the network; they are text."""
    evil = "<img src=x onerror=window.hacked=1>"
    topics = Topics(fleet="evil")
    base = report()
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    box = Detection(label=evil, score=0.5, box=(10.0, 50.0, 90.0, 90.0))
    problems = (f"source: {evil}", "'\"}}; {{ constructor }} `${1}`")
    messages = {
        topics.status("edge-a"): status("edge-a"),
        topics.telemetry("edge-a"): telemetry(
            problems=problems, stream=counts(1, 0, {evil: 1}, source=evil)
        ),
        topics.detections("main"): type(base)(**{**fields, "detections": (box,)}),
    }
    with publishing(mosquitto_url) as client, served(mosquitto_url, "evil") as url:
        for topic, message in messages.items():
            client.publish(topic, to_json(message, indent=0), retain=True)
        visit = Visit(browser, url)
        visit.wait_until(lambda: evil in visit.alert() and "constructor }}" in visit.alert())
        visit.wait_until(lambda: evil in visit.text("#ek-source"))
        visit.wait_for("#ek-drops .ek-drop")
        reload = Visit(browser, url)
        reload.wait_until(lambda: "constructor }}" in reload.alert())
        assert visit.page.evaluate("window.hacked") is None
        assert reload.page.evaluate("window.hacked") is None
        assert visit.errors == [] and reload.errors == []
        for topic in messages:
            client.publish(topic, b"", retain=True).wait_for_publish(5)
        visit.page.close()
        reload.page.close()


def test_an_empty_fleet_tells_a_newcomer_what_to_do(browser, mosquitto_url: str) -> None:
    """Before any agent runs."""
    with served(mosquitto_url, "empty") as url:
        visit = Visit(browser, url)
        visit.wait_until(lambda: "edgekit agent --config" in visit.text("#ek-sentence"))
        assert visit.text("#ek-state") == "Waiting"
        assert visit.errors == []
        visit.page.close()


def test_a_viewer_may_choose_between_streams(browser, mosquitto_url: str) -> None:
    """One camera at a time, each with its own numbers."""
    topics = Topics(fleet="pair")
    with publishing(mosquitto_url) as client, served(mosquitto_url, "pair") as url:
        visit = Visit(browser, url)
        assert visit.page.locator(".ek-choice button").count() == 0

        def film() -> bool:
            for name, age_ms in (("door", 100.0), ("gate", 900.0)):
                answer = report(age_ms=age_ms, stream=name)
                client.publish(topics.detections(name), to_json(answer, indent=0))
            return visit.page.locator(".ek-choice button").count() == 2

        visit.wait_until(film)
        assert "stream door" in visit.text("#ek-source")
        visit.page.click(".ek-choice button:has-text('gate')")
        visit.wait_until(lambda: film() and "stream gate" in visit.text("#ek-source"))
        visit.wait_until(lambda: film() and visit.number("#ek-p50") == 900)
        assert visit.errors == []
        visit.page.close()
