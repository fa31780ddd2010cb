"""MqttSession against real brokers that vanish, hang, refuse or are none at all."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hop_world import PATIENCE_S, wait_until

from edgekit.errors import ConfigError, LinkError
from edgekit.transport.broker import EmbeddedBroker
from edgekit.transport.mosquitto import MosquittoBroker
from edgekit.transport.mqtt import MqttSession

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def started(stack: contextlib.ExitStack, port: int = 0) -> MosquittoBroker:
    try:
        return stack.enter_context(MosquittoBroker(port))
    except ConfigError as error:
        if "no mosquitto" not in error.what:
            raise
        pytest.skip(str(error))


def session(
    stack: contextlib.ExitStack, url: str, name: str = "edge-a", **options: object
) -> MqttSession:
    made = MqttSession(url, client_id=name, **options)  # type: ignore[arg-type]
    stack.callback(made.close)
    return made


def test_a_broker_that_is_not_there_is_a_link_error_with_the_way_out(
    stack: contextlib.ExitStack,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = session(stack, f"mqtt://127.0.0.1:{port}")
    with pytest.raises(LinkError) as caught:
        made.connect(timeout_s=1)
    assert str(caught.value) == (
        f"cannot use the broker at mqtt://127.0.0.1:{port}: Connection refused. "
        f"Try: start one with `mosquitto -p {port}` or leave out --broker."
    )
    assert "Connection refused" in made.state
    with pytest.raises(LinkError, match="Connection refused"):
        made.publish("a", b"")
    started(stack, port)
    made.connect(timeout_s=PATIENCE_S)
    assert made.state == "connected"


def test_a_host_that_has_no_address_is_named(stack: contextlib.ExitStack) -> None:
    with pytest.raises(LinkError, match="no-such-host"):
        session(stack, "mqtt://no-such-host.invalid").connect(timeout_s=2)


@pytest.mark.parametrize("speech", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_what_is_no_broker_is_refused_in_time(
    stack: contextlib.ExitStack, speech: bytes | None
) -> None:
    """A web server, one that hangs up, and one that says nothing at all."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = server.accept()
                kept.append(sock)
                if speech is not None:
                    sock.sendall(speech)
                    sock.close()

    threading.Thread(target=serve, daemon=True).start()
    began_s = time.monotonic()
    with pytest.raises(LinkError, match="cannot use the broker"):
        session(stack, f"mqtt://127.0.0.1:{server.getsockname()[1]}").connect(timeout_s=1)
    assert time.monotonic() - began_s < 5
    server.shutdown(socket.SHUT_RDWR)


def test_a_broker_restart_brings_subscriptions_queued_messages_and_callbacks_back(
    stack: contextlib.ExitStack,
) -> None:
    told: list[tuple[bool, str]] = []
    taken: list[bytes] = []
    broker = started(stack)
    made = session(stack, broker.url, on_connection=lambda *state: told.append(state))
    made.subscribe("t/early", lambda _, payload: taken.append(payload))
    made.connect()
    made.subscribe("t/late/+", lambda _, payload: taken.append(payload))
    made.publish("t/early", b"1", wait_s=PATIENCE_S)
    assert wait_until(lambda: taken == [b"1"])
    assert broker.pid
    os.kill(broker.pid, signal.SIGKILL)
    assert wait_until(lambda: not made.is_connected)
    assert "lost the broker" in made.state
    made.publish("t/late/x", b"2")
    with pytest.raises(LinkError, match="did not acknowledge t/early"):
        made.publish("t/early", b"3", wait_s=0.05)
    with pytest.raises(LinkError, match="is not published"):
        made.publish("t/early", b"never", qos=0)
    broker.close()
    started(stack, broker.port)
    assert wait_until(lambda: set(taken) == {b"1", b"2", b"3"}), taken
    assert [connected for connected, _ in told] == [True, False, True]
    assert told[2][1] == "connected"


def test_messages_beyond_the_queue_are_refused_not_forgotten(stack: contextlib.ExitStack) -> None:
    """And those that were queued all arrive, many times the broker's receive maximum at once."""
    taken: list[bytes] = []
    broker = started(stack)
    made = session(stack, broker.url, queue_count=300)
    made.subscribe("t/#", lambda _, payload: taken.append(payload[:4]))
    made.connect()
    broker.close()
    assert wait_until(lambda: not made.is_connected)
    for number in range(300):
        made.publish("t/n", number.to_bytes(4, "big") * 2500)
    with pytest.raises(LinkError, match="300 messages wait for the broker already"):
        made.publish("t/n", b"one too many")
    started(stack, broker.port)
    assert wait_until(lambda: len(set(taken)) == 300), len(set(taken))
    assert made.state == "connected"


def test_the_embedded_broker_is_reached_with_the_older_protocol(
    stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    broker = stack.enter_context(EmbeddedBroker())
    caplog.set_level("INFO")
    began_s = time.monotonic()
    made = session(stack, broker.url, will=("will/of/edge-a", b"offline"))
    made.connect(timeout_s=PATIENCE_S)
    assert time.monotonic() - began_s < PATIENCE_S / 2, "version 5 was refused, not waited for"
    assert "does not take MQTT 5" in caplog.text
    made.publish("t/x", b"1", wait_s=PATIENCE_S)


def test_mosquitto_is_spoken_to_in_version_5(
    stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    session(stack, started(stack).url).connect()
    assert "does not take MQTT 5" not in caplog.text


@pytest.mark.parametrize("kind", [MosquittoBroker, EmbeddedBroker])
def test_the_last_will_of_a_killed_client_is_published_and_retained(
    stack: contextlib.ExitStack, kind: type[MosquittoBroker] | type[EmbeddedBroker]
) -> None:
    broker = started(stack) if kind is MosquittoBroker else stack.enter_context(EmbeddedBroker())
    script = f"""
import time
from edgekit.transport.mqtt import MqttSession
session = MqttSession({broker.url!r}, client_id="victim", will=("s/victim", b"offline"))
session.connect()
session.publish("s/victim", b"online", retain=True, wait_s=5)
print("up", flush=True)
time.sleep(60)
"""
    victim = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert victim.stdout is not None
    stack.callback(victim.stdout.close)
    stack.callback(victim.wait)
    stack.callback(victim.kill)
    assert victim.stdout.readline()
    early: list[bytes] = []
    late: list[bytes] = []
    watcher = session(stack, broker.url, "watcher")
    watcher.connect()
    watcher.subscribe("s/+", lambda _, payload: early.append(payload))
    assert wait_until(lambda: early == [b"online"])
    victim.kill()
    assert wait_until(lambda: early == [b"online", b"offline"])
    newcomer = session(stack, broker.url, "newcomer")
    newcomer.connect()
    newcomer.subscribe("s/#", lambda _, payload: late.append(payload))
    assert wait_until(lambda: late == [b"offline"])


def test_a_handler_that_waits_for_its_own_thread_is_told(stack: contextlib.ExitStack) -> None:
    """It would wait for ever: the acknowledgement comes on the thread it blocks."""
    errors: list[LinkError] = []
    made = session(stack, started(stack).url)
    made.connect()

    def waits(topic: str, payload: bytes) -> None:
        try:
            made.publish("t/reply", b"", wait_s=5)
        except LinkError as error:
            errors.append(error)

    made.subscribe("t/x", waits)
    made.publish("t/x", b"")
    assert wait_until(lambda: errors)
    assert "its own thread" in errors[0].what


def test_closing_is_quick_though_the_broker_hangs(stack: contextlib.ExitStack) -> None:
    before = set(threading.enumerate())
    broker = started(stack)
    made = session(stack, broker.url)
    made.connect()
    assert broker.pid
    os.kill(broker.pid, signal.SIGSTOP)
    stack.callback(os.kill, broker.pid, signal.SIGCONT)
    with pytest.raises(LinkError, match="did not acknowledge"):
        made.publish("t/x", b"", wait_s=0.05)
    began_s = time.monotonic()
    made.close()
    assert time.monotonic() - began_s < 3
    assert wait_until(lambda: set(threading.enumerate()) <= before)
    assert made.state == "closed"


def test_closing_while_the_broker_is_gone_is_quick_and_ends_the_thread(
    stack: contextlib.ExitStack,
) -> None:
    before = set(threading.enumerate())
    broker = started(stack)
    made = session(stack, broker.url)
    made.connect()
    broker.close()
    assert wait_until(lambda: not made.is_connected)
    made.publish("t/x", b"never sent")
    made.close()
    assert wait_until(lambda: set(threading.enumerate()) <= before)


def test_what_was_published_just_before_closing_still_leaves(stack: contextlib.ExitStack) -> None:
    """Closing says goodbye after what is queued, so the last status is not lost."""
    broker = started(stack)
    taken: list[bytes] = []
    watcher = session(stack, broker.url, "watcher")
    watcher.subscribe("t/#", lambda _, payload: taken.append(payload))
    watcher.connect()
    watcher.publish("t/listening", b"", wait_s=PATIENCE_S)
    assert wait_until(lambda: taken == [b""])
    for number in range(10):
        made = session(stack, broker.url)
        made.connect()
        made.publish("t/last", bytes([number]) * 50_000)
        made.close()
    assert wait_until(lambda: len(taken) == 11), [payload[:1] for payload in taken]


def test_a_stranger_with_our_name_is_told_in_the_state(stack: contextlib.ExitStack) -> None:
    """Two agents with one device name push each other out; somebody must be able to read why."""
    broker = started(stack)
    told: list[str] = []
    for _ in range(2):
        session(
            stack, broker.url, "edge-a", on_connection=lambda _, text: told.append(text)
        ).connect()
    assert wait_until(lambda: any("another client call itself edge-a?" in text for text in told))


def test_a_broker_that_refuses_us_is_not_one_that_is_missing(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The way out is the password, not another broker."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started(stack).close()
    (tmp_path / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n")
    process = subprocess.Popen(
        ["mosquitto", "-c", str(tmp_path / "conf")],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"},
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    made = session(stack, f"mqtt://edge-a:wrong@127.0.0.1:{port}")

    def refusal() -> str:
        try:
            made.connect(timeout_s=2)
        except LinkError as error:
            return str(error)
        return ""

    assert wait_until(lambda: "it refuses: Not authorized" in refusal())
    assert "check user, password" in refusal()
    assert "wrong" not in refusal()
