"""What an agent is told on its own board (agent.toml); everything else it learns over MQTT."""

from typing import Literal

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec

Optimization = Literal["none", "basic", "extended", "all"]
Provider = Literal["auto", "tensorrt", "cpu", "xnnpack", "cuda", "tensorrt-ep", "tensorrt-rtx-ep"]


class HopConfig(Spec, frozen=True, kw_only=True):
    """Where this device takes activations from its upstream neighbour."""

    host: str = "0.0.0.0"
    port: int = 0
    """0: any free port; neighbours learn it from the retained status."""
    advertise: str = ""
    """Host that neighbours should use; empty: the address from which the broker is reached."""
    credit: int = 2
    """Frames that may wait here or be on their way here."""
    certificate: str = ""
    key: str = ""
    authority: str = ""
    """Paths of PEM files; all three or none. With them the hop speaks mutual TLS 1.3."""

    def __post_init__(self) -> None:
        given = [bool(self.certificate), bool(self.key), bool(self.authority)]
        if any(given) and not all(given):
            raise ConfigError(
                "hop.certificate, hop.key and hop.authority belong together",
                hint="give all three paths, or none for an unencrypted hop",
            )
        if not 1 <= self.credit <= 64:
            raise ConfigError(f"hop.credit must be 1..64, got {self.credit}", hint="use 2")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"hop.port must be 0..65535, got {self.port}", hint="use 0")


class LinkConfig(Spec, frozen=True, kw_only=True):
    """Measuring the links of a pipeline in the background, and being the other end of that.

    Each agent answers probes on the address of its hop, with the certificates of its hop; one that
    has a next device probes it now and then, at 0.1 % of what the link carries. Without
    certificates whoever reaches the port may load the link for some seconds: give them, or use a
    closed network.
    """

    enabled: bool = True
    port: int = 0
    """TCP and UDP port for probes; 0: any free one, neighbours learn it from the status."""
    period_s: float = 10.0
    """From one look to the next, at the least."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"link.port must be 0..65535, got {self.port}", hint="use 0")
        if not 0.1 <= self.period_s <= 3600:
            raise ConfigError(
                f"link.period_s must be 0.1..3600, got {self.period_s}", hint="use 10"
            )


class RuntimeConfig(Spec, frozen=True, kw_only=True):
    """How this device runs its shard."""

    threads: int = 1
    optimization: Optimization = "all"
    provider: Provider = "auto"
    """auto: TensorRT where the bundle has an engine recipe and this board can build the engine,
    else ONNX Runtime on the CPU. tensorrt: the same, and a bundle without recipe is a problem that
    is told. Others: that execution provider of ONNX Runtime, and the CPU where it fails."""
    dilation: float = 1.0
    """Slow this device down by this factor, to stand for a weaker board."""
    cpus: tuple[int, ...] = ()
    """Pin the agent to these processors; empty: no pinning."""


class SourceConfig(Spec, frozen=True, kw_only=True):
    """What this device films. Only the device that runs the first shard uses it."""

    uri: str
    stream: str = "main"
    record: str = ""
    """Write the answered frames with their boxes to this video file."""
    keep: str = ""
    """Keep frames, as the camera gave them, in this folder as PNG files: calibration pictures for
    ``edgekit quantize --calibrate images:DIR``. Empty: none. The stream never waits for it."""
    keep_every: int = 25
    """Only every so-many-th frame: neighbours look alike."""
    keep_most: int = 500
    """Files at the most; then they replace each other, spread over all that was filmed."""

    def __post_init__(self) -> None:
        if self.keep_every < 1:
            raise ConfigError(
                f"source.keep_every must be 1 or more, got {self.keep_every}", hint="use 25"
            )
        if not 1 <= self.keep_most <= 100_000:
            raise ConfigError(
                f"source.keep_most must be 1..100000, got {self.keep_most}", hint="use 500"
            )


class PreviewConfig(Spec, frozen=True, kw_only=True):
    """Pictures for people, sent only while somebody watches."""

    fps: float = 10.0
    width_px: int = 640
    jpeg_quality: int = 75


class AgentConfig(Spec, frozen=True, kw_only=True):
    """One agent."""

    device: str
    fleet: str
    broker: str
    """mqtt://host:1883 or mqtts://host:8883"""
    store: str
    """Folder for verified shards and the last good deployment; created if absent."""
    hop: HopConfig = HopConfig()
    link: LinkConfig = LinkConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    source: SourceConfig | None = None
    preview: PreviewConfig = PreviewConfig()

    def __post_init__(self) -> None:
        for field, value in (("device", self.device), ("fleet", self.fleet)):
            if not value or any(char in value for char in "/+# "):
                raise ConfigError(
                    f"{field} {value!r} cannot be an MQTT topic level",
                    hint="use letters, digits, -",
                )
