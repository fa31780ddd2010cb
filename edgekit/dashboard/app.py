"""Serve the live page of a fleet until it is told to stop.

In: broker, fleet, host and port.  Out: a web page for any number of browsers, all assets local.
Read-only: it publishes nothing but the wish for previews while a browser looks.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI, Response
from nicegui import ui

from edgekit.dashboard.feed import Feed
from edgekit.dashboard.page.layout import register_page
from edgekit.errors import ConfigError, LinkError
from edgekit.transport.broker_url import parse_broker_url
from edgekit.transport.mqtt import MqttSession

logger = logging.getLogger(__name__)

_TICK_S = 0.2
_PREVIEW_WAIT_S = 1.0
_SHUTDOWN_S = 2

OnReady = Callable[[str], None]


def run_dashboard(
    *,
    mqtt_url: str,
    fleet: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    on_ready: OnReady | None = None,
    stop: threading.Event | None = None,
    title: str = "EdgeKit",
) -> None:
    """Serve in the calling thread until ``stop`` is set or Ctrl-C comes; once per process.

    ``port`` 0 takes any free one; ``on_ready`` is called with the address once browsers may come.
    Raises: LinkError if the broker cannot be reached; ConfigError if the port cannot be had.
    """
    listening = _listen(host, port)
    with contextlib.closing(listening):
        mqtt = MqttSession(mqtt_url, client_id=f"edgekit-dashboard-{secrets.token_hex(4)}")
        feed = Feed(mqtt, fleet=fleet, url=str(parse_broker_url(mqtt_url)))
        try:
            mqtt.connect()
            _serve(feed, listening, title=f"{title} · {fleet}", on_ready=on_ready, stop=stop)
        finally:
            mqtt.close()


def _serve(
    feed: Feed,
    listening: socket.socket,
    *,
    title: str,
    on_ready: OnReady | None,
    stop: threading.Event | None,
) -> None:
    """Run the web server on ``listening``."""

    @contextlib.asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        feed.start()
        keeper = asyncio.create_task(_keep(feed, server, _address(listening), on_ready, stop))
        yield
        keeper.cancel()

    api = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_previews(api, feed)
    register_page(feed, title=title)
    try:
        ui.run_with(api, title=title, dark=True, tailwind=False, show_welcome_message=False)
    except RuntimeError as error:
        raise ConfigError(
            f"the page cannot be served twice by one process: {error}",
            hint="start a second `edgekit dashboard` instead",
        ) from None
    server = uvicorn.Server(
        uvicorn.Config(
            api, log_level="warning", ws="wsproto", timeout_graceful_shutdown=_SHUTDOWN_S
        )
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has closed in good order and repeats it
        server.run(sockets=[listening])
    if not server.started:
        raise LinkError("the web server did not start", hint="read the lines above")


async def _keep(
    feed: Feed,
    server: uvicorn.Server,
    address: str,
    on_ready: OnReady | None,
    stop: threading.Event | None,
) -> None:
    """Say when browsers may come, watch our connection to the broker, end when told to."""
    while not server.started:
        await asyncio.sleep(0.02)
    if on_ready is not None:
        on_ready(address)
    while stop is None or not stop.is_set():
        feed.tick()
        await asyncio.sleep(_TICK_S)
    server.should_exit = True


def _add_previews(api: FastAPI, feed: Feed) -> None:
    """Pictures are pulled, one at a time, each browser at its own pace; the newest one wins."""

    @api.get("/api/streams/{stream}/preview")
    async def preview(stream: str, after: int = 0) -> Response:
        found = await feed.preview(stream, after=after, timeout_s=_PREVIEW_WAIT_S)
        if found is None:
            return Response(status_code=204)
        serial, payload = found
        body = b'{"serial":%d,"preview":%s}' % (serial, payload)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is told before anything else is begun."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"the page cannot be served at {host}:{port}: {error}",
            hint="choose another port with --port, or 0 for any free one",
        ) from None


def _address(listening: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
