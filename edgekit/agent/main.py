"""Put an agent together from its configuration: the only place where its real parts meet.

In: agent.toml.  Out: a process that serves until it is told to end (SIGTERM, Ctrl-C).
"""

import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from types import FrameType

import cv2

from edgekit.agent.agent import Agent, new_run_id, offline_will
from edgekit.agent.link_meter import LinkMeter
from edgekit.errors import ConfigError
from edgekit.spec.agent_config import AgentConfig, HopConfig
from edgekit.transport.broker_url import parse_broker_url
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.mqtt import MqttSession
from edgekit.transport.probe_responder import ProbeResponder
from edgekit.transport.tls import tls_contexts

logger = logging.getLogger(__name__)


MakeLinkMeter = Callable[[AgentConfig, ssl.SSLContext | None], LinkMeter]


def run_agent(
    config: AgentConfig, *, make_link_meter: MakeLinkMeter | None = None, processor: str = ""
) -> None:
    """Serve until SIGTERM or SIGINT. ``processor`` is what the status calls this board's.

    Raises: ConfigError, DeviceError, LinkError if the agent cannot start.
    """
    _pin(config.runtime.cpus)
    cv2.setNumThreads(config.runtime.threads)  # else as many as the board has, beside the shard
    run = new_run_id()
    mqtt = MqttSession(
        config.broker,
        client_id=f"edgekit-{config.fleet}-{config.device}",
        will=offline_will(config, run),
        on_connection=lambda connected, _state: agent.connection_changed(connected),
    )
    server_tls, client_tls = _tls(config.hop)
    meter = None
    if make_link_meter is not None and config.link.enabled:
        meter = make_link_meter(config, client_tls)
    agent = Agent(
        config,
        run=run,
        mqtt=mqtt,
        make_link=lambda identity, on_answer, on_state: TcpHopLink(
            identity, on_answer=on_answer, on_state=on_state, tls=client_tls
        ),
        link_meter=meter,
        processor=processor,
    )
    listener = TcpHopListener(
        config.hop.host,
        config.hop.port,
        on_activation=agent.accept,
        credit_count=config.hop.credit,
        tls=server_tls,
        device=config.device,
    )

    responder = _responder(config, server_tls)

    def end(_signal: int, _frame: FrameType | None) -> None:
        agent.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    host = config.hop.advertise or _own_address(config.broker)
    logger.info("agent %s listens on %s:%d", config.device, host, listener.address[1])
    try:
        agent.run(
            listener,
            hop_address=f"{host}:{listener.address[1]}",
            probe_address=f"{host}:{responder.address[1]}" if responder else "",
        )
    finally:
        if responder:
            responder.close()
        listener.close()
        mqtt.close()


def _responder(config: AgentConfig, tls: ssl.SSLContext | None) -> ProbeResponder | None:
    """Beside the hop: on its address, and with its certificates no stranger is answered.

    Raises: ConfigError if the port is taken.
    """
    if not config.link.enabled:
        return None
    try:
        return ProbeResponder(config.hop.host, config.link.port, name=config.device, tls=tls)
    except ConfigError as error:
        raise ConfigError(
            error.what, hint="set link.port in agent.toml to another one, or 0 for any"
        ) from None


def _pin(cpus: tuple[int, ...]) -> None:
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, set(cpus))
    except (OSError, AttributeError) as error:
        raise ConfigError(
            f"cannot pin the agent to processors {list(cpus)}: {error}",
            hint=f"use numbers below {os.cpu_count()} in runtime.cpus, or leave it out",
        ) from None


def _own_address(broker: str) -> str:
    """The address of this device on the network where the broker is."""
    host, port = parse_broker_url(broker).host, parse_broker_url(broker).port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))  # sends nothing: UDP only picks a route
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _tls(hop: HopConfig) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Server and client context of this device; both None without certificates."""
    if not hop.certificate:
        return None, None
    return tls_contexts(hop.certificate, hop.key, hop.authority)
