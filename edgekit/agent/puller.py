"""Pull files of a bundle over MQTT, in blocks, resumable, verified.

In: a manifest entry and the broker's retained blocks.  Out: the verified file in the store.
Blocks are asked for by subscribing to exactly the missing ones, a window at a time, so the broker
never floods a small board; what has arrived is remembered on disk and survives a power cut.
"""

import logging
import queue
import threading
from collections.abc import Callable

from edgekit.agent.store import Store
from edgekit.bundle.blocks import PartialFile
from edgekit.errors import LinkError
from edgekit.spec.base import parse_json
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement
from edgekit.spec.topics import Topics, last_level
from edgekit.transport.mqtt_port import MqttPort

logger = logging.getLogger(__name__)

_ANNOUNCEMENT_TIMEOUT_S = 10.0
_WINDOW = 16
_STALL_S = 5.0
_MAX_STALLS = 3


def pull_file(
    entry: FileEntry,
    *,
    store: Store,
    mqtt: MqttPort,
    topics: Topics,
    on_bytes: Callable[[int], None],
    cancelled: threading.Event,
) -> None:
    """Bring ``entry`` into the store; return at once if it is already there.

    ``on_bytes`` gets the size of every block as it arrives (those of an earlier, interrupted pull
    included). Raises: LinkError if no block arrives for 15 s or ``cancelled`` is set; TrustError if
    the assembled file does not match its digest (nothing reaches the store, the part is removed).
    """
    if store.has(entry):
        on_bytes(entry.size_bytes)
        return
    with PartialFile(entry, store.blob_path(entry.sha256)) as part:
        on_bytes(part.present_bytes)
        stalls = 0
        while window := part.missing()[:_WINDOW]:
            if cancelled.is_set():
                raise LinkError(f"the pull of {entry.path} was cancelled", hint="deploy again")
            got = _pull_window(entry, window, part, mqtt, topics, on_bytes, cancelled)
            stalls = 0 if got else stalls + 1
            if stalls == _MAX_STALLS:
                raise LinkError(
                    f"block {window[0]} of {entry.path} did not come within "
                    f"{_MAX_STALLS * _STALL_S:.0f} s",
                    hint="check the broker, then publish the bundle again with `edgekit deploy`",
                )
        part.finish()


def pull_announcement(deployment: str, *, mqtt: MqttPort, topics: Topics) -> Announcement:
    """The retained announcement of ``deployment``. Raises: LinkError if the broker has none."""
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    topic = topics.deployment(deployment)
    mqtt.subscribe(topic, lambda _topic, payload: arrived.put(payload))
    try:
        payload = arrived.get(timeout=_ANNOUNCEMENT_TIMEOUT_S)
    except queue.Empty:
        raise LinkError(
            f"the broker has no deployment {deployment}", hint="publish it: `edgekit deploy`"
        ) from None
    finally:
        mqtt.unsubscribe(topic)
    announcement = parse_json(payload, Announcement, origin=topic)
    if announcement.manifest.deployment_id != deployment:
        raise LinkError(
            f"the announcement under {deployment} is about {announcement.manifest.deployment_id}",
            hint="publish the bundle again",
        )
    return announcement


def _pull_window(
    entry: FileEntry,
    window: list[int],
    part: PartialFile,
    mqtt: MqttPort,
    topics: Topics,
    on_bytes: Callable[[int], None],
    cancelled: threading.Event,
) -> int:
    """Subscribe to the blocks of ``window`` and write what comes. Returns how many came."""
    arrived: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

    def receive(topic: str, payload: bytes) -> None:
        if payload:  # an empty retained message means: withdrawn
            arrived.put((int(last_level(topic)), payload))

    wanted = {topics.block(entry.sha256, index): index for index in window}
    for topic in wanted:
        mqtt.subscribe(topic, receive)
    got: set[int] = set()
    try:
        while len(got) < len(window) and not cancelled.is_set():
            index, payload = arrived.get(timeout=_STALL_S)
            if index not in got:
                part.add(index, payload)
                on_bytes(len(payload))
                got.add(index)
    except queue.Empty:
        logger.warning("%s: %d of %d blocks came", entry.path, len(got), len(window))
    finally:
        for topic in wanted:
            mqtt.unsubscribe(topic)
    return len(got)
