"""The spine: the main job from a trained model to a running fleet, one readable line per step.

In: a model, a source, devices.  Out: a Summary (and a live page, a video, a file of detections).
The same agents, bundle, broker messages and hops run here and on boards; only the devices are
processes of this machine.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.builder.build import build_bundle
from edgekit.builder.forwarding import behind_the_camera
from edgekit.builder.load import LoadedModel
from edgekit.bundle.bundle import Bundle
from edgekit.errors import ConfigError, DeviceError
from edgekit.fleet.certificates import FleetAuthority
from edgekit.fleet.collect import StreamCollector, Summary
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import Progress, publish_bundle, withdraw_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.spec.agent_config import (
    AgentConfig,
    HopConfig,
    Optimization,
    RuntimeConfig,
    SourceConfig,
)
from edgekit.spec.base import to_json
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Fleet
from edgekit.spec.messages import AnswerReport
from edgekit.spec.plan import FRAME
from edgekit.spec.topics import Topics
from edgekit.transport.broker import EmbeddedBroker
from edgekit.transport.mqtt import MqttSession
from edgekit.vision.cards import resolve_card
from edgekit.vision.sources import open_source, parse_source_uri

STREAM = "main"
_NO_PROGRESS_S = 30.0

Say = Callable[[str], None]
Serve = Callable[[str, str, threading.Event], None]
"""Shows the live page (broker URL, fleet name) until the event is set or the user ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What to run on this machine."""

    model: Path
    source: str
    fleet: Fleet
    cut: tuple[str, ...] = ("auto",)
    decoder: str | None = None
    input_shapes: dict[str, tuple[int, ...]] | None = None
    broker: str | None = None
    optimization: Optimization = "all"
    threads: int = 1
    pin: bool = False
    emulate_speed: bool = True
    tls: bool = True
    detections: Path | None = None
    save: Path | None = None
    folder: Path | None = None


def run_demo(
    options: DemoOptions, *, say: Say, progress: Progress, serve: Serve | None = None
) -> Summary:
    """Build, deploy and run; with ``serve`` until its page is closed, else to the source's end.

    Raises: EdgeKitError of whatever failed; the agents and the broker are ended in any case.
    """
    _check_source(options.source)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-demo-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        bundle = _build(options, folder / "bundle", say)
        broker = options.broker or stack.enter_context(EmbeddedBroker()).url
        topics = Topics(fleet=options.fleet.name)
        mqtt = MqttSession(broker, client_id=f"edgekit-demo-{bundle.manifest.deployment_id}")
        mqtt.connect()
        stack.callback(mqtt.close)
        report = stack.enter_context(_report_writer(options.detections))
        collector = StreamCollector(mqtt, topics, stream=STREAM, on_report=report)
        watcher = FleetWatcher(mqtt, topics)
        configs = agent_configs(options, bundle, broker, folder)
        agents = stack.enter_context(LocalAgents(configs, folder))
        announcement = publish_bundle(bundle, mqtt=mqtt, topics=topics, progress=progress)
        deploy(announcement, mqtt=mqtt, topics=topics, watcher=watcher, say=say)
        if serve is not None:
            serve(broker, options.fleet.name, threading.Event())
        else:
            _wait_for_the_end(collector, agents, progress)
        withdraw_bundle(bundle, mqtt=mqtt, topics=topics)
        return collector.summary(
            cut=tuple(cut.names for cut in bundle.plan.cuts),
            model=options.model.name,
            source=parse_source_uri(options.source).uri,
        )


def agent_configs(
    options: DemoOptions, bundle: Bundle, broker: str, folder: Path
) -> tuple[AgentConfig, ...]:
    """One AgentConfig per placement of the plan; the first one owns the source."""
    authority = FleetAuthority(options.fleet.name) if options.tls else None
    slowdown = {device.name: options.fleet.slowdown(device) for device in options.fleet.device}
    configs = []
    for index, placement in enumerate(bundle.plan.placements):
        dilation = max(1.0, slowdown[placement.device]) if options.emulate_speed else 1.0
        home = folder / placement.device
        hop = authority.enrol(placement.device, home) if authority else HopConfig()
        source = SourceConfig(
            uri=options.source,
            stream=STREAM,
            record=str(options.save.absolute()) if options.save else "",
        )
        configs.append(
            AgentConfig(
                device=placement.device,
                fleet=options.fleet.name,
                broker=broker,
                store=str(home / "store"),
                hop=msgspec.structs.replace(hop, host="127.0.0.1", advertise="127.0.0.1"),
                runtime=RuntimeConfig(
                    threads=options.threads,
                    optimization=options.optimization,
                    dilation=dilation,
                    cpus=(index,) if options.pin else (),
                ),
                source=source if index == 0 else None,
            )
        )
    return tuple(configs)


def _check_source(uri: str) -> None:
    """Refuse a missing file or a misspelt scene before the build; cameras open once, in the agent.

    Raises: ConfigError, DeviceError.
    """
    if parse_source_uri(uri).kind in ("file", "images", "scene"):
        open_source(uri).close()


def _build(options: DemoOptions, out: Path, say: Say) -> Bundle:
    def card_for(loaded: LoadedModel) -> ModelCard:
        card, how = resolve_card(
            loaded.path, decoder=options.decoder, inputs=loaded.inputs, outputs=loaded.outputs
        )
        say(f"model card: {how}")
        return card

    fleet, cut, forwarding = options.fleet, options.cut, None
    if cut[:1] == (FRAME,):
        forwarding, fleet, _ = behind_the_camera(fleet)
        cut = cut[1:] or ("auto",)
    result = build_bundle(
        options.model,
        fleet=fleet,
        rule=cut,
        forwarding=forwarding,
        card=card_for,
        out=out,
        input_shapes=options.input_shapes,
        force=True,
        progress=lambda what, done, total: say(f"build: {what}"),
    )
    for note in result.notes:
        say(note)
    return result.bundle


@contextlib.contextmanager
def _report_writer(path: Path | None) -> Iterator[Callable[[AnswerReport], None]]:
    """A function that appends one JSON line per answer to ``path``."""
    if path is None:
        yield lambda report: None
        return
    try:
        lines = path.open("wb")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="check --detections"
        ) from None
    with lines:

        def write(report: AnswerReport) -> None:
            lines.write(to_json(report, indent=0) + b"\n")

        yield write


def _wait_for_the_end(collector: StreamCollector, agents: LocalAgents, progress: Progress) -> None:
    """Wait until the source has ended and every answer is here.

    Raises: DeviceError if nothing moves for 30 s.
    """
    seen, stalled_s = (-1, -1), 0.0
    while not collector.wait_ended(0.5):
        latest = collector.latest()
        done = collector.answered_count
        captured = latest.frames_captured if latest is not None else 0
        progress("answered", done, max(captured, done))
        stalled_s = 0.0 if (done, captured) != seen else stalled_s + 0.5
        seen = (done, captured)
        if stalled_s >= _NO_PROGRESS_S:
            agents.check_alive()
            raise DeviceError(
                f"no frame was answered for {_NO_PROGRESS_S:.0f} s ({done} of {captured} so far)",
                hint="run again with --folder DIR and read DIR/*/agent.log",
            )
