"""What MqttPort promises, over Mosquitto, the embedded broker and the in-memory fake alike."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hop_world import PATIENCE_S, wait_until

from edgekit.errors import ConfigError, LinkError
from edgekit.transport.broker import EmbeddedBroker
from edgekit.transport.memory_mqtt import MemoryBroker
from edgekit.transport.mosquitto import MosquittoBroker
from edgekit.transport.mqtt import MqttSession
from edgekit.transport.mqtt_port import MqttPort

NewSession = Callable[..., MqttPort]


@dataclass
class Inbox:
    """Records the messages of one subscription."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)

    def take(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))

    def has(self, count: int) -> bool:
        return wait_until(lambda: len(self.messages) >= count)


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[MosquittoBroker]:
    try:
        broker = MosquittoBroker().__enter__()
    except ConfigError as error:
        pytest.skip(str(error))
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(
    params=[
        pytest.param("mosquitto", marks=pytest.mark.integration),
        pytest.param("embedded", marks=pytest.mark.integration),
        "memory",
    ]
)
def new_session(request: pytest.FixtureRequest) -> Iterator[NewSession]:
    """Makes connected sessions and closes them after the test."""
    sessions: list[MqttPort] = []
    memory = MemoryBroker()
    url = "" if request.param == "memory" else request.getfixturevalue(request.param).url

    def new(client_id: str, **options: object) -> MqttPort:
        session: MqttPort
        if request.param == "memory":
            session = memory.session(client_id, **options)  # type: ignore[arg-type]
        else:
            session = MqttSession(url, client_id=client_id, **options)  # type: ignore[arg-type]
        sessions.append(session)
        session.connect()
        return session

    yield new
    for session in sessions:
        session.close()


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    """A topic of its own for each test: brokers live longer than one."""
    return "test/" + request.node.name.replace("[", "-").replace("]", "")


def test_a_message_reaches_those_who_asked_for_it(new_session: NewSession, root: str) -> None:
    exact, wild, other = Inbox(), Inbox(), Inbox()
    new_session("one").subscribe(f"{root}/a", exact.take)
    new_session("two").subscribe(f"{root}/+", wild.take)
    new_session("three").subscribe(f"{root}/b", other.take)
    sender = new_session("four")
    probe = threading.Event()
    sender.subscribe(f"{root}/probe", lambda *_: probe.set())
    # Subscribing is asynchronous; repeat until everybody is known to listen.
    while not (wait_until(lambda: exact.messages and wild.messages, limit_s=0.1)):
        sender.publish(f"{root}/a", bytes(range(256)), wait_s=PATIENCE_S)
    assert set(exact.messages) == {(f"{root}/a", bytes(range(256)))}
    assert (f"{root}/a", bytes(range(256))) in wild.messages
    assert not other.messages


def test_retained_messages_wait_for_late_subscribers(new_session: NewSession, root: str) -> None:
    sender, inbox = new_session("sender"), Inbox()
    sender.publish(f"{root}/status", b"old", retain=True, wait_s=PATIENCE_S)
    sender.publish(f"{root}/status", b"new", retain=True, wait_s=PATIENCE_S)
    sender.publish(f"{root}/gone", b"x", retain=True, wait_s=PATIENCE_S)
    sender.publish(f"{root}/gone", b"", retain=True, wait_s=PATIENCE_S)
    sender.publish(f"{root}/event", b"not retained", wait_s=PATIENCE_S)
    late = new_session("late")
    late.subscribe(f"{root}/#", inbox.take)
    assert inbox.has(1)
    assert not wait_until(lambda: len(inbox.messages) > 1, limit_s=0.2)
    assert inbox.messages == [(f"{root}/status", b"new")]


def test_fifty_blocks_of_120_kib_are_pulled_in_windows(new_session: NewSession, root: str) -> None:
    """As shards are: retained blocks, exact topics, sixteen at a time, whole and unchanged."""
    sender, puller, inbox = new_session("sender"), new_session("puller"), Inbox()
    blocks = {f"{root}/{n}": bytes([n]) * (120 * 1024) for n in range(50)}
    for topic, block in blocks.items():
        sender.publish(topic, block, retain=True, wait_s=PATIENCE_S)
    topics = list(blocks)
    for start in range(0, 50, 16):
        window = topics[start : start + 16]
        for topic in window:
            puller.subscribe(topic, inbox.take)
        assert inbox.has(start + len(window))
        for topic in window:
            puller.unsubscribe(topic)
    assert dict(inbox.messages) == blocks
    for topic in topics:
        sender.publish(topic, b"", retain=True, wait_s=PATIENCE_S)


def test_a_thousand_messages_in_a_hurry_reach_two_subscribers(
    new_session: NewSession, root: str
) -> None:
    """Telemetry of a fleet: none lost, none doubled, in order."""
    inboxes = [Inbox(), Inbox()]
    for number, inbox in enumerate(inboxes):
        subscriber = new_session(f"subscriber-{number}")
        subscriber.subscribe(f"{root}/#", inbox.take)
        # A message to itself comes back only after the subscription stands.
        while not wait_until(lambda inbox=inbox: inbox.messages, limit_s=0.1):  # type: ignore[misc]
            subscriber.publish(f"{root}/hello", b"", wait_s=PATIENCE_S)
    sender = new_session("sender")
    expected = [(f"{root}/n", n.to_bytes(2, "big") * 512) for n in range(1000)]
    for topic, payload in expected:
        sender.publish(topic, payload)
    for inbox in inboxes:

        def taken(inbox: Inbox = inbox) -> list[tuple[str, bytes]]:
            return [message for message in inbox.messages if message[0].endswith("/n")]

        assert wait_until(lambda taken=taken: len(taken()) >= 1000, limit_s=30)  # type: ignore[misc]
        assert taken() == expected


def test_several_handlers_may_share_a_filter_and_leave_together(
    new_session: NewSession, root: str
) -> None:
    session, first, second = new_session("one"), Inbox(), Inbox()
    session.subscribe(f"{root}/x", first.take)
    session.subscribe(f"{root}/x", second.take)
    session.publish(f"{root}/x", b"1", wait_s=PATIENCE_S)
    assert first.has(1)
    assert second.has(1)
    session.unsubscribe(f"{root}/x")
    session.unsubscribe(f"{root}/never")
    done = Inbox()
    session.subscribe(f"{root}/y", done.take)
    session.publish(f"{root}/x", b"2", wait_s=PATIENCE_S)
    session.publish(f"{root}/y", b"3", wait_s=PATIENCE_S)
    assert done.has(1)
    assert [payload for _, payload in first.messages] == [b"1"]


def test_a_handler_that_fails_harms_nobody(
    new_session: NewSession, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged with the topic; later messages and other handlers go on."""
    session, inbox = new_session("one"), Inbox()

    def fails(topic: str, payload: bytes) -> None:
        raise ValueError("boom")

    session.subscribe(f"{root}/x", fails)
    session.subscribe(f"{root}/x", inbox.take)
    session.publish(f"{root}/x", b"1", wait_s=PATIENCE_S)
    session.publish(f"{root}/x", b"2", wait_s=PATIENCE_S)
    assert inbox.has(2)
    assert session.is_connected
    assert "boom" in caplog.text


def test_handlers_may_publish_and_subscribe(new_session: NewSession, root: str) -> None:
    """Agents answer commands from the handler; the session's thread must not wait for itself."""
    session, inbox = new_session("one"), Inbox()

    def obey(topic: str, payload: bytes) -> None:
        session.subscribe(f"{root}/reply", inbox.take)
        session.publish(f"{root}/reply", payload + b"!")
        session.unsubscribe(f"{root}/command")

    session.subscribe(f"{root}/command", obey)
    session.publish(f"{root}/command", b"go", wait_s=PATIENCE_S)
    assert inbox.has(1)
    assert inbox.messages[0] == (f"{root}/reply", b"go!")


def test_closing_gracefully_keeps_the_will_unpublished(new_session: NewSession, root: str) -> None:
    watcher, inbox = new_session("watcher"), Inbox()
    leaver = new_session("leaver", will=(f"{root}/status", b"offline"))
    leaver.publish(f"{root}/status", b"online", retain=True, wait_s=PATIENCE_S)
    watcher.subscribe(f"{root}/#", inbox.take)
    assert inbox.has(1)
    leaver.close()
    assert not wait_until(lambda: len(inbox.messages) > 1, limit_s=0.3)
    assert leaver.state == "closed"
    with pytest.raises(LinkError):
        leaver.publish(f"{root}/status", b"x")


def test_what_is_acknowledged_reaches_subscribers_though_the_sender_leaves(
    new_session: NewSession, root: str
) -> None:
    """A command line tool publishes, waits for the acknowledgement, and exits at once."""
    watcher, inbox = new_session("watcher"), Inbox()
    watcher.subscribe(f"{root}/#", inbox.take)
    while not wait_until(lambda: inbox.messages, limit_s=0.1):
        watcher.publish(f"{root}/hello", b"", wait_s=PATIENCE_S)
    for number in range(20):
        brief = new_session("brief", will=(f"{root}/will", b"dead"))
        for part in range(3):
            brief.publish(f"{root}/{number}/{part}", b"x")
        brief.publish(f"{root}/{number}/last", b"x", wait_s=PATIENCE_S)
        brief.close()
    expected = {f"{root}/{n}/{part}" for n in range(20) for part in (0, 1, 2, "last")}
    assert wait_until(lambda: expected <= {topic for topic, _ in inbox.messages})
    counts = Counter(topic for topic, _ in inbox.messages)
    assert f"{root}/will" not in counts
    assert all(counts[topic] == 1 for topic in expected)


def test_what_is_no_topic_is_refused_where_it_is_written(new_session: NewSession) -> None:
    session = new_session("one")
    with pytest.raises(ConfigError):
        session.publish("a/#", b"")
    with pytest.raises(ConfigError):
        session.subscribe("a/#/b", lambda *_: None)
    assert session.is_connected
