"""The process of EmbeddedBroker: amqtt, made fit for a small fleet. The only file that knows amqtt.

In: ``python -m edgekit.transport.broker_process HOST PORT``.  Out: one line on standard output, the
port or why there is none; then it serves until told to stop, or until its standard input ends.

What amqtt 0.12.1 does differently from Mosquitto, and what is done about it here:

1. It speaks only MQTT 3.1.1 and reads the rest of a version 5 CONNECT as nonsense, sometimes
   waiting for bytes that never come. Here: refused at the version number.
2. Waiting for a PUBACK it can miss one that comes early, and then holds up that client for 5 s.
   Here: every subscription is granted QoS 0, as the standard allows; on one machine TCP does it.
3. It ends a client after one keep-alive, not one and a half: before paho's ping is due. Here:
   ten seconds later.
4. It sends a client that connects all retained messages that anybody ever subscribed to, before it
   listens to it: a store of shards, at every connection. Here: only those it subscribes to itself.
5. It acknowledges a message before it hands it on, and forgets it if the sender leaves in between.
   Here: that a client left is noticed only when its messages are handed on.
6. Once a second it clears up behind clients that left, by name, and so can take the subscriptions
   of one that has just come back. Here: cleared in one go, and never if it is back.
7. It keeps every filter ever used, and tries each on every message. Here: it forgets unused ones.

Known and left alone: it keeps nothing on disk, and its table of retained messages has no bound.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

import amqtt.broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, BrokerError, MQTTError
from amqtt.mqtt.connect import ConnectPacket, ConnectVariableHeader
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

_KEEPALIVE_GRACE_S = 10
_DRAIN_PAUSE_S = 0.002
_PORT_ATTEMPTS = 5
_MQTT_3_1_1 = 4


class _VariableHeader(ConnectVariableHeader):  # type: ignore[misc]  # amqtt is not typed
    """Deviation 1."""

    @classmethod
    async def from_stream(cls, reader: Any, fixed_header: Any) -> Any:
        header = await super().from_stream(reader, fixed_header)
        if header.proto_level != _MQTT_3_1_1:
            raise MQTTError(f"protocol level {header.proto_level} is not served")
        return header


class _Handler(BrokerProtocolHandler):  # type: ignore[misc]
    """Deviation 5."""

    async def wait_disconnect(self) -> Any:
        result = await super().wait_disconnect()
        while self.session and not self.session.delivered_message_queue.empty():
            await asyncio.sleep(_DRAIN_PAUSE_S)
        await asyncio.sleep(_DRAIN_PAUSE_S)
        return result


class _Broker(amqtt.broker.Broker):  # type: ignore[misc]
    """Deviations 2, 4, 6 and 7."""

    async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:
        granted: int = await super().add_subscription((subscription[0], 0), session)
        return granted

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Any
    ) -> None:
        subscribers = [known.client_id for known, _ in self._subscriptions[subscription[0]]]
        if session.client_id in subscribers:
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _cleanup_session(self, client_id: str) -> None:
        session, handler = self._sessions.get(client_id, (None, None))
        if session is None or session.transitions.state == "connected":
            return
        del self._sessions[client_id]
        await self._del_all_subscriptions(session)
        session.clear_queues()
        await self._stop_handler(handler)

    async def _handle_unsubscription(self, session: Any, handler: Any, waiter: Any) -> None:
        await super()._handle_unsubscription(session, handler, waiter)
        for unused in [known for known, who in self._subscriptions.items() if not who]:
            del self._subscriptions[unused]


async def _serve(host: str, port: int) -> str:
    """Run until told to stop. Returns: why it could not start, or an empty string."""
    config = BrokerConfig(
        listeners={"default": ListenerConfig(bind=f"{host}:{port}")},
        timeout_disconnect_delay=_KEEPALIVE_GRACE_S,  # deviation 3
        plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    )
    try:
        await _Broker(config).start()
    except (AMQTTError, BrokerError) as error:
        return str(error)
    print(port, flush=True)  # noqa: T201 - the word to the parent process
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Ctrl-C goes to the whole group: the parent stops us when its agents have said goodbye.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    threading.Thread(target=_wait_for_orphan, args=(loop, stop), daemon=True).start()
    await stop.wait()
    logging.disable()  # its tasks now end in the middle, and each would say so
    return ""


def _wait_for_orphan(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop when the parent has closed our standard input, by will or by dying."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    loop.call_soon_threadsafe(stop.set)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def main(host: str, port: int) -> int:
    """Serve on ``port``, or any free port if it is 0. Returns: the exit code."""
    logging.basicConfig(level=logging.ERROR, format="broker: %(message)s")
    ConnectPacket.VARIABLE_HEADER = _VariableHeader
    amqtt.broker.BrokerProtocolHandler = _Handler
    why = ""
    for _ in range(_PORT_ATTEMPTS if port == 0 else 1):
        try:
            why = asyncio.run(_serve(host, port or _free_port(host)))
        except OSError as error:
            why = str(error)
        if not why:
            return 0
    print(why.replace("\n", " "))  # noqa: T201 - the word to the parent process
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
