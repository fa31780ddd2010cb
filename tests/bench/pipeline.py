"""How close a two-device pipeline comes to its slowest part.

Two pinned agent processes run a real detector on a real video, every frame, over a plain TCP hop
(``--tls``: the encrypted one, whose arithmetic the pinned processors must do as well).
efficiency = measured throughput x max(T1, Tlink, T2), where each T is the time per frame of that
part by itself: T1 = decode the video + preprocess + shard 0, T2 = shard 1 + decode the boxes, each
in a plain loop on its own processor while the other one runs beside it (two processors of one
machine share caches and memory; two boards would not); Tlink = stream the cut's tensors over the
same kind of hop. The cut is the one of several that runs fastest: near the balance of work, where
the device with the camera also has the video to decode and the activations to send. 1.0 means that
nothing but the slowest part costs time: not the hop's copies, not the messages, not the agents'
threads. Throughput is what the source agent reports of its steady
state; broker and operator share the two processors with the agents.

    python tests/bench/pipeline.py [--quick] [--tls] [--json FILE]
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import numpy as np
import onnxruntime

from edgekit.agent.prepare import CARD_PATH
from edgekit.agent.shard import ShardRunner
from edgekit.agent.shard_session import load_onnx_session
from edgekit.builder.build import build_bundle
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.workload import workload_of
from edgekit.bundle.bundle import Bundle, open_bundle
from edgekit.fleet.certificates import FleetAuthority
from edgekit.fleet.deployment import deploy
from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.publish import publish_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.planner.cuts import legal_cuts
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.spec.agent_config import RuntimeConfig
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import local_fleet
from edgekit.spec.messages import StreamTelemetry
from edgekit.spec.tensors import Array
from edgekit.spec.topics import Topics
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.mosquitto import MosquittoBroker
from edgekit.transport.mqtt import MqttSession
from edgekit.transport.port import Activation, Identity
from edgekit.transport.tls import tls_contexts
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import resolve_card
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import open_source
from edgekit.workflow import DemoOptions, agent_configs
from tests.world import DATA

MODELS = (
    ("yolox-nano", "models/yolox_nano/yolox_nano_416x416.onnx"),
    ("nanodet-m", "models/nanodet_m/nanodet_m_320.onnx"),
    ("lightperson", "models/light_person_detector/light_person_detector.onnx"),
)
WORK_SHARES = (0.3, 0.4, 0.5)
"""Shares of the model's work to try on the device with the camera."""
ACTIVATIONS_KEPT = 32
VIDEO = "video/vtest_pedestrians/vtest.mp4"


def time_per_frame(work: Callable[[], object], count: int) -> float:
    """Mean time of ``work`` [s] over ``count`` runs after a warm-up: throughput is a mean too."""
    for _ in range(max(3, count // 10)):
        work()
    started_s = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started_s) / count


def stage_alone(folder: Path, index: int, count: int) -> float:
    """Time per frame of one stage [s], alone on its processor."""
    os.sched_setaffinity(0, {index})
    cv2.setNumThreads(1)
    bundle = open_bundle(folder)
    plan = bundle.plan
    card = load(folder / CARD_PATH, ModelCard)
    (model_input,) = plan.model_inputs
    source = open_source(f"file:{DATA / VIDEO}?loop=1")

    def runner(shard: int) -> ShardRunner:
        session = load_onnx_session(folder / plan.placements[shard].shard, RuntimeConfig())
        return ShardRunner(session, plan, shard)

    shard_0 = runner(0)

    def first() -> dict[str, Array]:
        image = source.read().image
        height_px, width_px = model_input.shape[2:]
        tensor = preprocess(image, card.input, height_px=height_px, width_px=width_px)
        return shard_0.run({model_input.name: tensor})

    if index == 0:
        return time_per_frame(first, count)
    # More than a cache holds: in the pipeline, too, every activation is new to the processor.
    arriving = itertools.cycle([first() for _ in range(ACTIVATIONS_KEPT)])
    shard_1 = runner(1)

    def last() -> None:
        outputs = shard_1.run(next(arriving))
        detections_of(
            outputs, card, model_input=model_input, source_height_px=360, source_width_px=480
        )

    return time_per_frame(last, count)


def stages_side_by_side(folder: Path, count: int) -> tuple[float, float]:
    """T1 and T2 [s]: both stages at once, each in a process of its own, unconnected."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        runs = [pool.apply_async(stage_alone, (folder, index, count)) for index in (0, 1)]
        return runs[0].get(), runs[1].get()


def link_alone(folder: Path, count: int, *, tls: bool) -> float:
    """Time per frame of the hop alone [s]: stream the cut's tensors as fast as credit allows."""
    cut = open_bundle(folder).plan.cuts[0]
    identity = Identity(device="edge-a", fleet="bench", deployment="d", epoch=1, cut=0)
    received, ready = threading.Semaphore(0), threading.Event()
    with tempfile.TemporaryDirectory() as home:
        pem = FleetAuthority("bench").enrol("edge-a", Path(home))
        server, client = tls_contexts(pem.certificate, pem.key, pem.authority)
        listener = TcpHopListener(
            "127.0.0.1",
            0,
            on_activation=lambda activation, reply, release: (release(), received.release()),
            tls=server if tls else None,
        )
    listener.serve(identity)
    link = TcpHopLink(
        identity,
        on_answer=lambda answer, trip: None,
        on_state=lambda connected, state: ready.set(),
        tls=client if tls else None,
    )
    link.set_peer(*listener.address)
    ready.wait(5.0)
    tensors = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in cut.tensors}
    frame = 0

    def send() -> None:
        nonlocal frame
        link.send(
            Activation(
                stream="s", run="r", frame=frame, capture_ns=0, source_height_px=360,
                source_width_px=480, tensors=tensors,
            ),
            timeout_s=5.0,
        )  # fmt: skip
        received.acquire(timeout=5.0)
        frame += 1

    try:
        return time_per_frame(send, count)
    finally:
        link.close()
        listener.close()


def throughput(options: DemoOptions, bundle: Bundle, broker: str, frames: int) -> float:
    """Answers per second of the real pipeline, by the source agent's own count."""
    topics = Topics(fleet=options.fleet.name)
    mqtt = MqttSession(broker, client_id="bench")
    mqtt.connect()
    rates = []
    with tempfile.TemporaryDirectory() as home:
        configs = agent_configs(options, bundle, broker, Path(home))
        with LocalAgents(configs, Path(home), restart=False) as agents:
            watcher = FleetWatcher(mqtt, topics)
            announcement = publish_bundle(
                bundle, mqtt=mqtt, topics=topics, progress=lambda *done: None
            )
            deploy(announcement, mqtt=mqtt, topics=topics, watcher=watcher, say=lambda text: None)
            while (stream := source_stream(watcher)) is None or not stream.ended:
                agents.check_alive()
                time.sleep(0.5)
                if stream is not None and stream.frames_answered >= frames // 4:
                    rates.append(stream.fps)
    mqtt.close()
    if stream.frames_answered != frames:
        raise SystemExit(f"{stream.frames_answered} of {frames} frames were answered")
    return median(rates or [stream.fps])


def source_stream(watcher: FleetWatcher) -> StreamTelemetry | None:
    """What the source agent last said of its stream."""
    telemetry = watcher.telemetry("edge-a")
    return telemetry.stream if telemetry is not None else None


def measure(
    name: str, model: Path, broker: str, *, frames: int, repeats: int, tls: bool
) -> dict[str, Any]:
    """All figures of one model: medians over ``repeats`` interleaved rounds."""
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as home:
        options = DemoOptions(
            model=model,
            source=f"file:{DATA / VIDEO}?loop=1&frames={frames}",
            fleet=local_fleet(2, name="bench"),
            pin=True,
            tls=tls,
        )
        tried = {}
        for number, cut in enumerate(candidate_cuts(model)):
            folder = Path(home) / f"bundle-{number}"
            bundle = build_bundle(
                model, fleet=options.fleet, rule=[cut], card=card_for, out=folder
            ).bundle
            tried[folder] = throughput(options, bundle, broker, frames)
        folder = max(tried, key=lambda one: tried[one])
        bundle = open_bundle(folder)
        for _ in range(repeats):
            fps = throughput(options, bundle, broker, frames)
            t1_s, t2_s = stages_side_by_side(folder, frames // 2)
            tlink_s = link_alone(folder, frames // 4, tls=tls)
            rounds.append(
                {
                    "fps": fps,
                    "t1_ms": 1e3 * t1_s,
                    "tlink_ms": 1e3 * tlink_s,
                    "t2_ms": 1e3 * t2_s,
                    "efficiency": fps * max(t1_s, tlink_s, t2_s),
                }
            )
        cut = bundle.plan.cuts[0]
    figures = {key: round(median(row[key] for row in rounds), 4) for key in rounds[0]}
    return {"model": name, "cut": str(cut), "cut_bytes": cut.nbytes, **figures, "rounds": rounds}


def candidate_cuts(model: Path) -> list[str]:
    """Tensors that leave the first device a fair share of the work; none inside a kernel."""
    workload = workload_of(load_model(model))
    inside = inner_names(Dag(workload))
    cuts = [
        cut
        for cut in legal_cuts(workload, max_tensors=3).cuts
        if cut.work_flop_before and not inside & set(cut.names)
    ]
    found = []
    for share in WORK_SHARES:
        wanted = share * workload.work_flop
        # Within 3 % of the share any cut will do, and the one of the fewest bytes is the best.
        near = min(abs(cut.work_flop_before - wanted) for cut in cuts) + 0.03 * workload.work_flop
        fair = [cut for cut in cuts if abs(cut.work_flop_before - wanted) <= near]
        found.append(str(min(fair, key=lambda cut: (cut.nbytes, cut.work_flop_before))))
    return list(dict.fromkeys(found))


def card_for(loaded: LoadedModel) -> ModelCard:
    """The card of a known family."""
    card, _ = resolve_card(loaded.path, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs)
    return card


def main() -> None:
    """Measure three models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer frames, one round")
    parser.add_argument("--tls", action="store_true", help="encrypt the hop, as a fleet would")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not DATA.exists():
        raise SystemExit("needs ../shared/data")
    frames, repeats = (600, 1) if arguments.quick else (1000, 5)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"ONNX Runtime {onnxruntime.__version__}; {frames} frames x {repeats}, "
        f"{'TLS' if arguments.tls else 'plain TCP'} hop"
    )
    print(f"{'model':12} {'T1 ms':>8} {'Tlink ms':>9} {'T2 ms':>8} {'fps':>8} {'efficiency':>11}")
    rows = []
    with MosquittoBroker() as broker:
        for name, model in MODELS:
            row = measure(
                name, DATA / model, broker.url, frames=frames, repeats=repeats, tls=arguments.tls
            )
            rows.append(row)
            print(
                f"{name:12} {row['t1_ms']:8.2f} {row['tlink_ms']:9.2f} {row['t2_ms']:8.2f} "
                f"{row['fps']:8.1f} {row['efficiency']:11.3f}",
                flush=True,
            )
    efficiencies = [row["efficiency"] for row in rows]
    result = {
        "efficiency_min": round(min(efficiencies), 3),
        "efficiency_median": round(median(efficiencies), 3),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"models": rows, **result}, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
