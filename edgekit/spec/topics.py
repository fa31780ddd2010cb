"""MQTT topic names, once.

The broker carries names, metadata, blocks and answers, never activations.
"""

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec

BLOCK_BYTES = 120 * 1024
"""Largest blob block; leaves room below the 128 KB limit of hosted brokers."""


class Topics(Spec, frozen=True, kw_only=True):
    """The topics of one fleet."""

    fleet: str

    def __post_init__(self) -> None:
        if not self.fleet or any(char in self.fleet for char in "/+# "):
            raise ConfigError(
                f"fleet name {self.fleet!r} cannot be an MQTT topic level",
                hint="use letters, digits, -",
            )

    def status(self, device: str) -> str:
        """Retained, with a last will: DeviceStatus."""
        return f"edgekit/{self.fleet}/device/{device}/status"

    def command(self, device: str) -> str:
        """Command."""
        return f"edgekit/{self.fleet}/device/{device}/command"

    def telemetry(self, device: str) -> str:
        """Telemetry, once a second and at every change of state."""
        return f"edgekit/{self.fleet}/device/{device}/telemetry"

    def profile(self, device: str, request: str) -> str:
        """ProfileReport: how far the measuring that a command asked for has come."""
        return f"edgekit/{self.fleet}/device/{device}/profile/{request}"

    def profile_block(self, device: str, request: str, index: int | str) -> str:
        """Raw bytes of one block of the measured profile, zlib of TOML; not retained."""
        return f"{self.profile(device, request)}/{index}"

    def deployment(self, deployment_id: str) -> str:
        """Retained: Announcement."""
        return f"edgekit/{self.fleet}/deployment/{deployment_id}"

    def block(self, sha256: str, index: int) -> str:
        """Retained: raw bytes of one block."""
        return f"edgekit/{self.fleet}/blob/{sha256}/{index}"

    def detections(self, stream: str) -> str:
        """One or more AnswerReports, a line of JSON each; one for every answered frame."""
        return f"edgekit/{self.fleet}/stream/{stream}/detections"

    def watch(self, stream: str) -> str:
        """A viewer asks for previews; repeated every two seconds while it looks."""
        return f"edgekit/{self.fleet}/stream/{stream}/watch"

    def preview(self, stream: str) -> str:
        """Preview: a small JPEG of an answered frame, only while somebody watches."""
        return f"edgekit/{self.fleet}/stream/{stream}/preview"


def last_level(topic: str, levels_from_end: int = 1) -> str:
    """The n-th level from the end: ``last_level(status_topic, 2)`` is the device's name."""
    return topic.split("/")[-levels_from_end]
