"""Publish a bundle: its blocks and its announcement, retained on the broker.

In: a verified bundle.  Out: retained messages, so that a device may pull whenever it is ready, also
when this workstation is gone.
"""

from collections.abc import Callable

import msgspec

from edgekit.bundle.blocks import block_count, split_blocks
from edgekit.bundle.bundle import PLAN_PATH, REPORT_PATH, Bundle
from edgekit.errors import ConfigError
from edgekit.spec.base import to_json
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement
from edgekit.spec.topics import BLOCK_BYTES, Topics
from edgekit.transport.mqtt_port import MqttPort

_ACK_EVERY = 16
_ACK_TIMEOUT_S = 30.0

Progress = Callable[[str, int, int], None]
"""Called with what is done (a sentence), the bytes done and the bytes in all."""


def publish_bundle(
    bundle: Bundle, *, mqtt: MqttPort, topics: Topics, progress: Progress
) -> Announcement:
    """Put everything that devices pull on the broker, then announce it.

    Raises: ConfigError if the bundle has no model card, so that no device could decode its outputs;
    LinkError if the broker stops acknowledging.
    """
    if bundle.card is None:
        raise ConfigError(
            f"{bundle.folder} has no model card, so its outputs cannot be decoded",
            hint="build it again with --decoder NAME, or with a card beside the model",
        )
    announcement = _announcement(bundle)
    wanted = _files_that_devices_pull(bundle)
    total = sum(entry.size_bytes for entry in wanted)
    done = 0
    for entry in wanted:
        for index, block in enumerate(split_blocks(bundle.read(entry.path))):
            wait_s = _ACK_TIMEOUT_S if index % _ACK_EVERY == _ACK_EVERY - 1 else None
            mqtt.publish(topics.block(entry.sha256, index), block, retain=True, wait_s=wait_s)
            done += len(block)
            progress(f"publish {entry.path}", done, total)
    mqtt.publish(
        topics.deployment(bundle.manifest.deployment_id),
        to_json(announcement, indent=0),
        retain=True,
        wait_s=_ACK_TIMEOUT_S,
    )
    return announcement


def withdraw_bundle(bundle: Bundle, *, mqtt: MqttPort, topics: Topics) -> None:
    """Remove the retained messages of ``bundle`` from the broker; devices keep what they have.

    Raises: LinkError if the broker stops acknowledging.
    """
    for entry in _files_that_devices_pull(bundle):
        for index in range(block_count(entry.size_bytes)):
            mqtt.publish(topics.block(entry.sha256, index), b"", retain=True)
    announcement = topics.deployment(bundle.manifest.deployment_id)
    mqtt.publish(announcement, b"", retain=True, wait_s=_ACK_TIMEOUT_S)


def _announcement(bundle: Bundle) -> Announcement:
    """Small enough for one message of any broker."""
    whole = Announcement(manifest=bundle.manifest, plan=bundle.plan)
    if len(to_json(whole, indent=0)) <= BLOCK_BYTES:
        return whole
    plan = msgspec.structs.replace(bundle.plan, codecs=())
    return Announcement(manifest=bundle.manifest, plan=plan, is_whole=False)


def _files_that_devices_pull(bundle: Bundle) -> list[FileEntry]:
    """Each file once, by digest; the plan and the manifest travel in the announcement if they can.

    How the bundle was made is of no use to a device.
    """
    left_out = {REPORT_PATH} | ({PLAN_PATH} if _announcement(bundle).is_whole else set())
    by_digest = {
        entry.sha256: entry for entry in bundle.manifest.files if entry.path not in left_out
    }
    return sorted(by_digest.values(), key=lambda entry: entry.path)
