"""Make and end one paho client, with what EdgeKit wants of it. Called by mqtt.py.

In: a broker URL and a protocol version.  Out: a client that is set up, or one that has ended.
"""

import contextlib
import random
import socket
import ssl
import threading
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgekit.transport.broker_url import BrokerUrl

_CLOSE_LIMIT_S = 1.0


class Attempt:
    """How the first connection of one client went; its callbacks fill it in."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.is_accepted = False
        self.refusal = ""
        """Why the broker does not want us, whatever the protocol version."""
        self.ended = ""
        """How it ended, if another protocol version may do better."""

    def accept(self) -> None:
        """The broker takes us."""
        self.is_accepted = True
        self.done.set()

    def refuse(self, why: str) -> None:
        """The broker will not take us."""
        self.refusal = why
        self.done.set()

    def end(self, why: str) -> None:
        """The broker did not understand us."""
        self.ended = why
        self.done.set()


def new_client(
    url: BrokerUrl,
    version: MQTTProtocolVersion,
    attempt: Attempt,
    *,
    client_id: str,
    will: tuple[str, bytes] | None,
    tls: ssl.SSLContext | None,
    queue_count: int,
) -> Client:
    """A client that is not connected yet; its callbacks get ``attempt`` as their user data."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=version,
        userdata=attempt,
        clean_session=None if version == MQTTProtocolVersion.MQTTv5 else True,
    )
    client.max_queued_messages_set(queue_count)
    # Each session has its own rhythm, so that a fleet does not return as one wave.
    first_s, longest_s = random.uniform(0.3, 0.6), random.uniform(1.2, 2.0)
    client.reconnect_delay_set(first_s, longest_s)  # type: ignore[arg-type]  # floats work
    if url.user is not None:
        client.username_pw_set(url.user, url.password)
    if url.is_tls:
        client.tls_set_context(tls or ssl.create_default_context())
    if will:
        client.will_set(will[0], will[1], qos=1, retain=True)
    client.on_socket_open = _send_at_once
    return client


def _send_at_once(_client: Client, _attempt: Attempt, sock: Any) -> None:
    """Paho leaves Nagle's algorithm on, which holds small messages back for 40 ms."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def stop(client: Client, *, wait_s: float = _CLOSE_LIMIT_S) -> None:
    """Say goodbye and end paho's thread; a broker that hangs cannot hold us for long."""
    client.disconnect()
    # loop_stop joins without a limit, so it is waited for from outside.
    stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
    stopper.start()
    if not wait_s:
        return
    stopper.join(wait_s)
    if stopper.is_alive():
        sock = client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        stopper.join(wait_s)
