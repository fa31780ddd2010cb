"""An MQTT broker for one machine, in its own process: the only file that knows amqtt.

In: a host and a port (0: any).  Out: a running broker and its URL; it dies with its parent.
For demonstrations and tests; a real fleet runs Mosquitto or EMQX with the same topics.

What amqtt 0.12 does differently from Mosquitto, and what is done about it here:

- It speaks only MQTT 3.1.1. MqttSession falls back to that.
- Waiting for a PUBACK it can miss one that comes early; it then holds up that client for 5 s. So
  every subscription is granted QoS 0 (the standard allows that): on one machine TCP does the rest.
- It ends a client after one keep-alive instead of one and a half, before paho's ping is due. So the
  limit is extended by ``_KEEPALIVE_GRACE_S``.
- It sends a client that connects all retained messages that anybody ever subscribed to, before it
  listens to it: a store of shards, at every connection. So only subscribers get them.
- It acknowledges a message before it hands it on, and forgets it if the client leaves in between.
  So a client's leaving is noticed only when its messages are handed on.
- It keeps every filter ever used, and tries each on every message. So unused ones are forgotten.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

from edgekit.errors import ConfigError
from edgekit.transport.mqtt import MqttSession

_log = logging.getLogger(__name__)

_KEEPALIVE_GRACE_S = 10
_DRAIN_PAUSE_S = 0.002
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 3.0
_PORT_ATTEMPTS = 5


class EmbeddedBroker:
    """A context manager: the broker runs inside the ``with`` block, and ``url`` leads to it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Broker URL for MqttSession, once running."""
        return f"mqtt://{self._host}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the broker, if it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "EmbeddedBroker":
        """Start, and wait until a client can connect.

        Raises: ConfigError if amqtt is missing or the port is taken.
        """
        if importlib.util.find_spec("amqtt") is None:
            raise ConfigError(
                "the embedded broker needs amqtt, which is not installed",
                hint="run `pip install 'edgekit[broker]'`, or give --broker mqtt://HOST",
            )
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, "--host", self._host, "--port", str(self._port)],
            stdin=subprocess.PIPE,  # its end of file tells the broker that we are gone
            stdout=subprocess.PIPE,
        )
        try:
            self._port = self._reported_port(self._process)
            probe = MqttSession(self.url, client_id="edgekit-broker-probe")
            probe.connect(_START_LIMIT_S)
            probe.close()
        except BaseException:
            self.close()
            raise
        return self

    def _reported_port(self, process: subprocess.Popen[bytes]) -> int:
        """The broker's first line is the port it listens on, or why it does not."""
        assert process.stdout is not None
        is_readable, _, _ = select.select([process.stdout], [], [], _START_LIMIT_S)
        line = process.stdout.readline().decode(errors="replace").strip() if is_readable else ""
        if line.isdigit():
            return int(line)
        why = line or ("it ended at once" if is_readable else f"no sign in {_START_LIMIT_S:g} s")
        raise ConfigError(
            f"the embedded broker cannot listen on {self._host}:{self._port}: {why}",
            hint="use another port, 0 for any, or give --broker mqtt://HOST",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the broker."""
        self.close()

    def close(self) -> None:
        """Stop the broker; what it retained is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


# What follows runs in the broker's own process.


async def _serve(host: str, port: int) -> str:
    """Run until told to stop. Returns: why it could not start, or an empty string."""
    import amqtt.broker
    from amqtt.contexts import BrokerConfig, ListenerConfig
    from amqtt.errors import AMQTTError
    from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

    class PatientHandler(BrokerProtocolHandler):  # type: ignore[misc]  # amqtt is not typed
        async def wait_disconnect(self) -> Any:
            result = await super().wait_disconnect()
            while self.session and not self.session.delivered_message_queue.empty():
                await asyncio.sleep(_DRAIN_PAUSE_S)
            await asyncio.sleep(_DRAIN_PAUSE_S)
            return result

    class QuietBroker(amqtt.broker.Broker):  # type: ignore[misc]
        async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:
            granted: int = await super().add_subscription((subscription[0], 0), session)
            return granted

        async def _publish_retained_messages_for_subscription(
            self, subscription: tuple[str, int], session: Any
        ) -> None:
            subscribers = [known.client_id for known, _ in self._subscriptions[subscription[0]]]
            if session.client_id in subscribers:
                await super()._publish_retained_messages_for_subscription(subscription, session)

        async def _handle_unsubscription(self, session: Any, handler: Any, waiter: Any) -> None:
            await super()._handle_unsubscription(session, handler, waiter)
            for unused in [known for known, who in self._subscriptions.items() if not who]:
                del self._subscriptions[unused]

    config = BrokerConfig(
        listeners={"default": ListenerConfig(bind=f"{host}:{port}")},
        timeout_disconnect_delay=_KEEPALIVE_GRACE_S,
        plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    )
    amqtt.broker.BrokerProtocolHandler = PatientHandler
    broker = QuietBroker(config)
    try:
        await broker.start()
    except AMQTTError as error:
        return str(error)
    print(port, flush=True)  # noqa: T201 - the word to the parent process
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    threading.Thread(target=_wait_for_orphan, args=(loop, stop), daemon=True).start()
    await stop.wait()
    with contextlib.suppress(AMQTTError, asyncio.TimeoutError):
        await asyncio.wait_for(broker.shutdown(), _STOP_LIMIT_S / 2)
    return ""


def _wait_for_orphan(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop when the parent has closed our standard input, by will or by dying."""
    while os.read(0, 1):
        pass
    loop.call_soon_threadsafe(stop.set)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Entry point of ``python -m edgekit.transport.broker``."""
    parser = argparse.ArgumentParser(description="MQTT broker for one machine (amqtt).")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="broker: %(message)s")
    why = ""
    for _ in range(_PORT_ATTEMPTS if options.port == 0 else 1):
        why = asyncio.run(_serve(options.host, options.port or _free_port(options.host)))
        if not why:
            return 0
    print(why.replace("\n", " "))  # noqa: T201 - the word to the parent process
    return 1


if __name__ == "__main__":
    sys.exit(main())
