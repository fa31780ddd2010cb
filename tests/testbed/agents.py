"""Run a bundle on an emulated fleet: real agents, a real broker, a real source, until its end.

In:  a bed, a bundle, a source.  Out: a StreamRun: every answer, the accounts, rates and ages.
The agents are those that boards run; only where they live, and how fast they compute, is emulated.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.bundle.bundle import Bundle
from edgekit.errors import DeviceError
from edgekit.fleet.certificates import FleetAuthority
from edgekit.fleet.collect import StreamCollector
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import publish_bundle, withdraw_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.agent_config import (
    AgentConfig,
    HopConfig,
    LinkConfig,
    RuntimeConfig,
    SourceConfig,
)
from edgekit.spec.messages import AnswerReport, Quantiles, StreamTelemetry
from edgekit.spec.topics import Topics
from edgekit.transport.mosquitto import MosquittoBroker
from edgekit.transport.mqtt import MqttSession
from tests.testbed.calibrate import dilations
from tests.testbed.plain import Bed, processor_of

STREAM = "bench"
_STALL_S = 60.0
_EDGE_SHARE = 0.1
"""Of the answers, at each end, that are not counted as steady state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRun:
    """What became of a source."""

    reports: tuple[AnswerReport, ...]
    accounts: StreamTelemetry

    @property
    def fps(self) -> float:
        """Answers per second in the steady state, by the source's clock."""
        moments_s = sorted(one.captured_unix_s + one.age_ms / 1e3 for one in self.reports)
        edge = int(_EDGE_SHARE * len(moments_s))
        steady = moments_s[edge : len(moments_s) - edge]
        if len(steady) < 2 or steady[-1] <= steady[0]:
            return 0.0
        return (len(steady) - 1) / (steady[-1] - steady[0])

    @property
    def age_ms(self) -> Quantiles:
        """From capture to answer."""
        return Quantiles.of(one.age_ms for one in self.reports)

    @property
    def mean_age_ms(self) -> float:
        """From capture to answer; 0 without answers."""
        return sum(one.age_ms for one in self.reports) / max(1, len(self.reports))


def run_stream(
    bed: Bed,
    bundle: Bundle,
    source: str,
    *,
    tls: bool = False,
    threads: int = 1,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> StreamRun:
    """Deploy ``bundle`` to agents on ``bed``, film ``source`` to its end, take all down.

    Raises: DeviceError if an agent dies or nothing is answered for a minute.
    """
    topics = Topics(fleet=bed.fleet.name)
    with (
        MosquittoBroker(host=bed.host_address) as broker,
        tempfile.TemporaryDirectory(prefix="edgekit-testbed-") as home,
    ):
        mqtt = MqttSession(broker.url, client_id="edgekit-testbed")
        mqtt.connect()
        try:
            reports: list[AnswerReport] = []
            collector = StreamCollector(mqtt, topics, stream=STREAM, on_report=reports.append)
            watcher = FleetWatcher(mqtt, topics)
            configs = agent_configs(
                bed, bundle, source, broker.url, Path(home), tls=tls, threads=threads
            )
            with LocalAgents(configs, Path(home), restart=False, prefix=bed.prefix) as agents:
                announcement = publish_bundle(bundle, mqtt=mqtt, topics=topics, progress=progress)
                deploy(
                    announcement, mqtt=mqtt, topics=topics, watcher=watcher,
                    say=lambda text: progress(text, 0, 0),
                )  # fmt: skip
                _wait(collector, agents, progress)
                withdraw_bundle(bundle, mqtt=mqtt, topics=topics)
            accounts = collector.latest()
        finally:
            mqtt.close()
    if accounts is None:
        raise DeviceError("the source agent never gave its accounts", hint="run it again")
    return StreamRun(reports=tuple(reports), accounts=accounts)


def agent_configs(
    bed: Bed, bundle: Bundle, source: str, broker: str, home: Path, *, tls: bool, threads: int
) -> tuple[AgentConfig, ...]:
    """One agent for each shard, as slow as the fleet file says."""
    factors = dilations(bed.fleet)
    authority = FleetAuthority(bed.fleet.name) if tls else None
    configs = []
    for index, placement in enumerate(bundle.plan.placements):
        device = placement.device
        hop = authority.enrol(device, home / device) if authority else HopConfig()
        host = "0.0.0.0" if bed.is_linked else "127.0.0.1"
        configs.append(
            AgentConfig(
                device=device,
                fleet=bed.fleet.name,
                broker=broker,
                store=str(home / device / "store"),
                hop=msgspec.structs.replace(hop, host=host, advertise=bed.address(device)),
                # Probes would take their part of the links that are measured here.
                link=LinkConfig(enabled=False),
                runtime=RuntimeConfig(
                    threads=threads,
                    dilation=factors[device],
                    cpus=(processor_of(bed.fleet, device),),
                ),
                source=SourceConfig(uri=source, stream=STREAM) if index == 0 else None,
            )
        )
    return tuple(configs)


def _wait(
    collector: StreamCollector, agents: LocalAgents, progress: Callable[[str, int, int], None]
) -> None:
    seen, moved_s = -1, time.monotonic()
    while not collector.wait_ended(0.5):
        agents.check_alive()
        latest, done = collector.latest(), collector.answered_count
        progress("answered", done, latest.frames_captured if latest is not None else 0)
        if done != seen:
            seen, moved_s = done, time.monotonic()
        if time.monotonic() - moved_s > _STALL_S:
            raise DeviceError(
                f"no frame was answered for {_STALL_S:.0f} s ({done} so far)",
                hint="look at the agents' logs: run with a smaller source first",
            )
