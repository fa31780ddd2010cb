"""Between the broker and the browsers."""

import asyncio
from collections.abc import Awaitable, Callable

from canned import FLEET, TOPICS, preview, report, status

from edgekit.dashboard.feed import Feed
from edgekit.errors import LinkError
from edgekit.spec.base import to_json
from edgekit.transport.mqtt_port import Handler, is_match


class _Broker:
    """As much of an MQTT session as a viewer needs."""

    def __init__(self) -> None:
        self.is_connected, self.state = True, "connected"
        self.published: list[str] = []
        self._handlers: list[tuple[str, Handler]] = []

    def connect(self, timeout_s: float = 5.0) -> None: ...

    def close(self) -> None: ...

    def unsubscribe(self, topic_filter: str) -> None: ...

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        self._handlers.append((topic_filter, handler))

    def publish(self, topic, payload, *, retain=False, qos=1, wait_s=None) -> None:
        if not self.is_connected:
            raise LinkError("no broker", hint="wait")
        self.published.append(topic)

    def deliver(self, topic: str, payload: bytes) -> None:
        for topic_filter, handler in self._handlers:
            if is_match(topic_filter, topic):
                handler(topic, payload)


def _with_feed(story: Callable[[Feed, _Broker, list[float]], Awaitable[None]]) -> None:
    """Run ``story`` on an event loop with a feed, its broker and a clock set by hand."""

    async def run() -> None:
        now_s, broker = [100.0], _Broker()
        feed = Feed(broker, fleet=FLEET, url="mqtt://b:1883", clock=lambda: now_s[0])
        feed.start()
        await story(feed, broker, now_s)

    asyncio.run(asyncio.wait_for(run(), 10))


def _show(broker: _Broker, frame: int = 0) -> None:
    broker.deliver(TOPICS.preview("main"), to_json(preview(frame), indent=0))


def test_messages_reach_the_snapshot() -> None:
    """All five topics are subscribed."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        broker.deliver(TOPICS.status("edge-a"), to_json(status()))
        broker.deliver(TOPICS.detections("main"), to_json(report(), indent=0))
        snapshot = feed.snapshot()
        assert [row.name for row in snapshot.devices] == ["edge-a"]
        assert [stream.name for stream in snapshot.streams] == ["main"]

    _with_feed(story)


def test_all_browsers_share_one_snapshot_for_a_moment() -> None:
    """Ten open pages must not cost ten times the work."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        first = feed.snapshot()
        now_s[0] += 0.1
        assert feed.snapshot() is first
        now_s[0] += 0.2
        assert feed.snapshot() is not first

    _with_feed(story)


def test_a_viewer_gets_each_picture_once_and_only_the_newest() -> None:
    """Newest wins, at the browser's pace."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        for frame in range(3):
            _show(broker, frame)
        found = await feed.preview("main", after=0, timeout_s=0.0)
        assert found == (3, to_json(preview(2), indent=0))
        assert await feed.preview("main", after=3, timeout_s=0.0) is None
        waiting = asyncio.create_task(feed.preview("main", after=3, timeout_s=5.0))
        await asyncio.sleep(0)
        await asyncio.to_thread(_show, broker, 9)
        again = await waiting
        assert again is not None and again[0] == 4

    _with_feed(story)


def test_a_browser_that_outlived_the_server_gets_a_picture() -> None:
    """Its serial number is from another life of the server, and may be larger than ours."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        _show(broker)
        found = await feed.preview("main", after=5000, timeout_s=0.0)
        assert found is not None and found[0] == 1

    _with_feed(story)


def test_pictures_are_asked_for_every_two_seconds_while_somebody_looks() -> None:
    """Watching costs the board work, so nobody else asks for it."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        broker.deliver(TOPICS.detections("main"), to_json(report(), indent=0))
        feed.snapshot()
        assert broker.published == []
        for _ in range(40):
            await feed.preview("main", after=0, timeout_s=0.0)
            now_s[0] += 0.1
        assert broker.published == [TOPICS.watch("main")] * 2
        now_s[0] += 60
        feed.snapshot()
        assert len(broker.published) == 2

    _with_feed(story)


def test_nobody_is_asked_about_a_stream_that_does_not_exist() -> None:
    """The name comes from a URL: it must never become a topic unseen."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        for name in ("ghost", "+", "#", "a/b", ""):
            assert await feed.preview(name, after=0, timeout_s=0.0) is None
        assert broker.published == []

    _with_feed(story)


def test_a_lost_broker_is_said_with_its_time_and_does_not_break_looking() -> None:
    """The page stays, with what was last heard."""

    async def story(feed: Feed, broker: _Broker, now_s: list[float]) -> None:
        _show(broker)
        broker.is_connected, broker.state = False, "connection refused"
        feed.tick()
        now_s[0] += 7
        assert (await feed.preview("main", after=0, timeout_s=0.0)) is not None
        (alert,) = feed.snapshot().alerts
        assert "for 7 s: connection refused" in alert.what
        broker.is_connected, broker.state = True, "connected"
        now_s[0] += 1
        assert feed.snapshot().alerts == ()

    _with_feed(story)
