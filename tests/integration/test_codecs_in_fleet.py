"""Coded activations between real agent processes: bytes on the wire, answers, faults, trust."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.builder.build import build_bundle
from edgekit.bundle.bundle import Bundle, write_bundle
from edgekit.bundle.golden import golden_path
from edgekit.fleet.collect import StreamCollector, Summary
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import publish_bundle, withdraw_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.runtime.ort import OrtSession
from edgekit.spec.codec import CodecSpec, parse_codec
from edgekit.spec.fleet import local_fleet
from edgekit.spec.messages import AnswerReport, Detection
from edgekit.spec.plan import FRAME_CUT, Placement
from edgekit.spec.topics import BLOCK_BYTES, Topics
from edgekit.transport.codecs import fit_klt
from edgekit.transport.mqtt import MqttSession
from edgekit.vision.cards import builtin_card
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import open_source
from edgekit.workflow import STREAM, DemoOptions, agent_configs
from tests.world import data, is_same_to_the_last_digit, unsplit_detections

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LIGHT = "models/light_person_detector/light_person_detector.onnx"
FASTEST = "models/fastestdet/FastestDet.onnx"
WIDE_CUT = "input.508"
"""A tensor of 336 channels: as large a basis as these detectors have."""
VIDEO = "video/vtest_pedestrians/vtest.mp4"


def recoded(bundle: Bundle, codec: CodecSpec, out: Path) -> Bundle:
    """The same shards, with ``codec`` on every cut."""
    plan = msgspec.structs.replace(bundle.plan, codecs=(codec,) * len(bundle.plan.cuts))
    count = len(plan.placements)
    vectors = [golden_path(index) for index in range(count) if bundle.golden(index) is not None]
    return write_bundle(
        out,
        plan=plan,
        shards=[bundle.read(placement.shard) for placement in plan.placements],
        card=bundle.card,
        golden=[bundle.read(name) for name in vectors],
    )


def forwarding(bundle: Bundle, codec: CodecSpec, out: Path) -> Bundle:
    """The whole model of ``bundle`` on edge-b, and nothing but the camera on edge-a."""
    (whole,) = bundle.plan.placements
    film = Placement(device="edge-a", shard="", inputs=(), outputs=(), work_flop=0, weight_bytes=0)
    plan = msgspec.structs.replace(
        bundle.plan,
        placements=(film, msgspec.structs.replace(whole, device="edge-b")),
        cuts=(FRAME_CUT,),
        codecs=(codec,),
    )
    return write_bundle(out, plan=plan, shards=[bundle.read(whole.shard)], card=bundle.card)


@dataclass
class Run:
    """A fleet of two agents on a source."""

    bundle: Bundle
    agents: LocalAgents
    collector: StreamCollector
    watcher: FleetWatcher
    mqtt: MqttSession
    topics: Topics
    reports: list[AnswerReport]
    folder: Path

    def summary(self) -> Summary:
        assert self.collector.wait_ended(60.0), "the stream did not end"
        return self.collector.summary(cut=(), model="", source="")

    def detections(self) -> list[tuple[Detection, ...]]:
        ordered = sorted(self.reports, key=lambda report: report.frame)
        return [report.detections for report in ordered]


Start = Callable[..., Run]


@pytest.fixture
def start(mosquitto_url: str, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(model: str, card: str, source: str, codec: str, cut: str = "auto") -> Run:
            """``cut`` "none": frames are forwarded to the second device."""
            name = f"codecs-{os.getpid()}-{time.monotonic_ns()}"
            options = DemoOptions(
                model=data(model), source=source, fleet=local_fleet(2, name=name), folder=tmp_path
            )
            plain = build_bundle(
                options.model,
                fleet=options.fleet,
                rule=cut if cut in ("auto", "none") else [cut],
                card=builtin_card(card),
                out=tmp_path / "plain",
            ).bundle
            spec = fitted(plain) if codec == "klt" else parse_codec(codec)
            bundle = (forwarding if cut == "none" else recoded)(plain, spec, tmp_path / "coded")
            mqtt = MqttSession(mosquitto_url, client_id=name)
            mqtt.connect()
            stack.callback(mqtt.close)
            topics, reports = Topics(fleet=name), list[AnswerReport]()
            collector = StreamCollector(mqtt, topics, stream=STREAM, on_report=reports.append)
            watcher = FleetWatcher(mqtt, topics)
            configs = agent_configs(options, bundle, mosquitto_url, tmp_path)
            agents = stack.enter_context(LocalAgents(configs, tmp_path, restart=False))
            announcement = publish_bundle(
                bundle, mqtt=mqtt, topics=topics, progress=lambda *done: None
            )
            stack.callback(lambda: withdraw_bundle(bundle, mqtt=mqtt, topics=topics))
            deploy(
                announcement, mqtt=mqtt, topics=topics, watcher=watcher, say=lambda text: None,
                ready_timeout_s=30.0,
            )  # fmt: skip
            return Run(bundle, agents, collector, watcher, mqtt, topics, reports, tmp_path)

        yield begin


def fitted(bundle: Bundle) -> CodecSpec:
    """A klt codec for the first cut, fine enough that nearly all components travel."""
    session = OrtSession(bundle.shard(0))
    (cut,), (model_input,) = bundle.plan.cuts, bundle.plan.model_inputs
    assert bundle.card is not None
    source, frames = open_source(f"file:{data(VIDEO)}"), []
    height_px, width_px = model_input.shape[2:]
    for _ in range(6):
        source.skip(40)
        image = source.read().image
        tensor = preprocess(image, bundle.card.input, height_px=height_px, width_px=width_px)
        made = session.run({model_input.name: tensor})
        frames.append({name: made[name] for name in cut.names})
    source.close()
    return fit_klt(frames, relative_step=0.02)


def share_found(expected: list[tuple[Detection, ...]], got: list[tuple[Detection, ...]]) -> float:
    """Share of the expected boxes that were found again, each within 5 px on every side."""
    hits = total = 0
    for want, have in zip(expected, got, strict=True):
        for one in want:
            total += 1
            hits += any(
                other.label == one.label
                and max(abs(p - q) for p, q in zip(one.box, other.box, strict=True)) < 5
                for other in have
            )
    return hits / total


@pytest.mark.parametrize(
    ("codec", "most_share", "least_found"),
    [("fp32+zstd", 1.0, 1.0), ("fp16", 0.5, 0.99), ("uint8+zstd", 0.25, 0.9)],
)
def test_every_frame_is_answered_from_fewer_bytes(
    start: Start, codec: str, most_share: float, least_found: float
) -> None:
    """Two processes, TLS between them; the answers are those of the whole model, or nearly."""
    source = f"file:{data(VIDEO)}?frames=40"
    run = start(LIGHT, "light_person", source, codec)
    summary = run.summary()
    assert (summary.frames_captured, summary.frames_answered) == (40, 40)
    assert summary.frames_dropped == {}
    (cut,), (hop,) = run.bundle.plan.cuts, summary.hops
    assert 0 < hop.bytes <= most_share * cut.nbytes + 64
    assert codec != "fp16" or hop.bytes == cut.nbytes / 2
    assert hop.encode_ms > 0
    assert hop.decode_ms > 0
    telemetry = run.watcher.telemetry("edge-a")
    assert telemetry is not None and telemetry.hop is not None
    assert telemetry.hop.bytes < cut.nbytes
    whole = unsplit_detections(data(LIGHT), source, optimization="all")
    assert share_found(whole, run.detections()) >= least_found


@pytest.mark.parametrize(("codec", "most_share"), [("fp32", 1.0), ("png", 0.7), ("jpeg-90", 0.2)])
def test_forwarded_frames_are_answered_as_by_the_whole_model(
    start: Start, codec: str, most_share: float
) -> None:
    """The camera's device has no shard. What is lossless on the way is equal to the last digit."""
    source = f"file:{data(VIDEO)}?frames=20"
    run = start(LIGHT, "light_person", source, codec, "none")
    summary = run.summary()
    assert (summary.frames_captured, summary.frames_answered) == (20, 20)
    (hop,) = summary.hops
    picture = open_source(source).read().image
    assert hop.bytes <= most_share * picture.nbytes
    assert codec != "fp32" or hop.bytes == picture.nbytes
    assert [stage.device for stage in summary.stages] == ["edge-a", "edge-b"]
    whole = unsplit_detections(data(LIGHT), source, optimization="all")
    if codec == "jpeg-90":
        assert share_found(whole, run.detections()) > 0.8
        return
    for found, expected in zip(run.detections(), whole, strict=True):
        assert is_same_to_the_last_digit(found, expected)


def test_a_killed_receiver_comes_back_and_no_coded_frame_of_a_file_is_lost(start: Start) -> None:
    """kill -9 in the middle of coded frames; they are coded again and sent again."""
    run = start(LIGHT, "light_person", f"file:{data(VIDEO)}?frames=200", "uint8+zstd")
    for _ in range(2):
        target, until_s = len(run.reports) + 30, time.monotonic() + 30
        while len(run.reports) < target:
            assert time.monotonic() < until_s, "no answers"
            time.sleep(0.02)
        run.agents.kill("edge-b")
        time.sleep(0.3)
        run.agents.start("edge-b")
    summary = run.summary()
    assert (summary.frames_captured, summary.frames_answered) == (200, 200)
    assert summary.frames_dropped == {}


def test_a_plan_with_a_large_basis_reaches_the_devices_through_any_broker(start: Start) -> None:
    """336 channels make 600 kB of JSON; hosted brokers take 128 kB. A restart needs no broker."""
    run = start(FASTEST, "fastestdet", f"file:{data(VIDEO)}?frames=20", "klt", WIDE_CUT)
    (codec,) = run.bundle.plan.codecs
    assert codec.bases[0].channel_count == 336
    announced = run.folder / "edge-b/store/deployments" / f"{run.bundle.deployment_id}.json"
    assert announced.stat().st_size > 2 * BLOCK_BYTES
    summary = run.summary()
    assert (summary.frames_captured, summary.frames_answered) == (20, 20)
    assert summary.hops[0].bytes < run.bundle.plan.cuts[0].nbytes / 2
    whole = unsplit_detections(data(FASTEST), f"file:{data(VIDEO)}?frames=20", optimization="all")
    assert share_found(whole, run.detections()) >= 0.9
    withdraw_bundle(run.bundle, mqtt=run.mqtt, topics=run.topics)
    before = len(run.reports)
    for device in ("edge-a", "edge-b"):
        run.agents.kill(device)
        run.agents.start(device)
    until_s = time.monotonic() + 30
    while len(run.reports) < before + 20:
        assert time.monotonic() < until_s, "no answers after the restart"
        time.sleep(0.05)


def test_a_device_with_other_parameters_is_refused_by_name_and_nothing_is_decoded(
    start: Start,
) -> None:
    """Somebody edited the store of one board: every number would be wrong, and look right."""
    run = start(LIGHT, "light_person", "scene:yard?fps=10&size=320x200", "uint8")
    path = run.folder / "edge-b/store/deployments" / f"{run.bundle.deployment_id}.json"
    run.agents.kill("edge-b")
    text = path.read_bytes()
    assert b'"element": "uint8"' in text
    path.write_bytes(text.replace(b'"element": "uint8"', b'"element": "fp16"'))
    run.agents.start("edge-b")
    says = "edge-b refuses: cut 0 of .* is coded as fp16, not uint8"

    def is_told() -> bool:
        telemetry = run.watcher.telemetry("edge-a")
        return telemetry is not None and any(
            re.search(says, problem) for problem in telemetry.problems
        )

    assert run.watcher.wait_for(is_told, 20.0)


def test_frames_kept_by_an_agent_are_pictures_to_calibrate_with(
    mosquitto_url: str, tmp_path: Path
) -> None:
    """`[source] keep` on a running agent; `quantize` reads them like any folder of pictures."""
    name = f"keep-{os.getpid()}"
    options = DemoOptions(
        model=data(LIGHT), source=f"file:{data(VIDEO)}?frames=60", fleet=local_fleet(1, name=name),
        folder=tmp_path,
    )  # fmt: skip
    bundle = build_bundle(
        options.model, fleet=options.fleet, rule="none", card=builtin_card("light_person"),
        out=tmp_path / "bundle",
    ).bundle  # fmt: skip
    (config,) = agent_configs(options, bundle, mosquitto_url, tmp_path)
    assert config.source is not None
    source = msgspec.structs.replace(
        config.source, keep=str(tmp_path / "kept"), keep_every=5, keep_most=6
    )
    config = msgspec.structs.replace(config, source=source)
    mqtt, topics = MqttSession(mosquitto_url, client_id=name), Topics(fleet=name)
    mqtt.connect()
    collector = StreamCollector(mqtt, topics, stream=STREAM)
    watcher = FleetWatcher(mqtt, topics)
    with LocalAgents([config], tmp_path, restart=False):
        announcement = publish_bundle(bundle, mqtt=mqtt, topics=topics, progress=lambda *done: None)
        deploy(
            announcement, mqtt=mqtt, topics=topics, watcher=watcher, say=lambda text: None,
            ready_timeout_s=30.0,
        )  # fmt: skip
        assert collector.wait_ended(60.0)
    mqtt.close()
    kept = list((tmp_path / "kept").iterdir())
    assert 1 <= len(kept) <= 6
    assert {path.suffix for path in kept} == {".png"}
    film = open_source(options.source)
    frames = [film.read().image for _ in range(60)]
    again = open_source(f"images:{tmp_path / 'kept'}")
    for _ in kept:
        picture = again.read().image
        assert any(np.array_equal(picture, frame) for frame in frames)
