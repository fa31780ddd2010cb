"""Activation codecs on real detectors: bytes, times and what becomes of the detections.

Three detectors, each cut early (a quarter of the work done), late, and in the middle where several
tensors cross; every third of 69 labelled frames of a video of pedestrians. Codecs of 256 steps take
their ranges from each frame; "fixed" are calibrated on eight later frames of the video, and so is
klt, with its step in root mean squares of the tensor behind its name.
"agree" is the share of boxes that uncut and coded runs have in common (same label, overlap of half
or more, score of 0.3 or more): 2 matched / all boxes of both. "AP50" is that of persons against
the labels, as a difference to uncut in percentage points; a point is about one box. Bytes and times
are medians over frames of the best of three runs, one thread; the total is encode + bytes /
bandwidth + decode, without the round trip and the shards.
Beside them the mandatory baseline: the frame itself as JPEG at quality 90 and 75, and for every
lossy codec at the highest quality that takes no more bytes. There the receiver runs the whole
model; this counts what crosses the link, not who computes. A JPEG wins a row if it takes no more
bytes than the lossy codec and agrees at least as well. The best ratio is raw / wire among rows that
agree to 99 % or more.

    python tests/bench/codecs.py [--quick] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import msgspec
import numpy as np
import onnxruntime

from edgekit.builder.probe import to_bytes
from edgekit.builder.split import split_model
from edgekit.bundle.chain import advance
from edgekit.errors import ConfigError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.codec import CodecSpec, parse_codec
from edgekit.spec.plan import Cut
from edgekit.spec.planning import CodecCost
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import calibrate, fit_klt, make_codec
from edgekit.transport.codecs.cost import CAP_BYTES, Measurement, codec_costs, measure_codec
from tests.bench.codecs_world import (
    VIDEO,
    Detector,
    Found,
    Jpeg,
    agreement_percent,
    as_jpeg,
    distinct_cuts,
    labels,
    person_ap50,
    read_frames,
)
from tests.world import DATA

MODELS = ("fastestdet", "yolox", "nanodet")
LABELLED = 69
ELEMENTS = ("fp32", "fp16", "uint8", "uint8-channel")
KLT_STEPS = (0.1, 0.25, 0.5, 1.0)
STEPPED = ("uint8", "uint8-channel")
PACKINGS = ("", "+lz4", "+zstd")
MBITS = (10, 100, 1000)
QUALITIES = (*range(1, 10), *range(10, 95, 5), 95, 98, 100)
TIMED_FRAMES = 8


@dataclass
class Row:
    """One codec on one cut."""

    model: str
    cut: str
    raw_bytes: int
    codec: str
    is_lossless: bool
    nbytes: float
    encode_ms: float
    decode_ms: float
    agree_percent: float
    ap50_pp: float
    total_ms: dict[int, float] = field(default_factory=dict)
    jpeg_quality: int | None = None
    """The highest that takes no more bytes; None if none does, or the codec loses nothing."""
    jpeg_agree_percent: float | None = None


def total_ms(encode_s: float, nbytes: float, decode_s: float) -> dict[int, float]:
    """Milliseconds at each bandwidth."""
    return {
        mbit: round(1e3 * (encode_s + nbytes / (mbit * 1e6 / 8) + decode_s), 3) for mbit in MBITS
    }


def codecs_for(calibration: Sequence[Mapping[str, Array]]) -> list[tuple[CodecSpec, str]]:
    """All codecs with their names in the table; those with parameters calibrated for one cut."""
    plain = [parse_codec(element + packing) for element in ELEMENTS for packing in PACKINGS]
    fixed = [calibrate(parse_codec(f"{element}+zstd"), calibration) for element in STEPPED]
    klts = []
    for relative_step in KLT_STEPS:
        with contextlib.suppress(ConfigError):  # the outputs of a model have no channels
            klts.append((fit_klt(calibration, relative_step=relative_step), relative_step))
    return [
        *((spec, spec.name) for spec in plain),
        *((spec, f"{spec.name} fixed") for spec in fixed),
        *((spec, f"{spec.name} {step:g}") for spec, step in klts),
    ]


def lossy_part(label: str) -> str:
    """What decides over the detections: packing loses nothing."""
    return label.replace("+lz4", "").replace("+zstd", "")


class Bench:
    """Everything that is measured about one detector."""

    def __init__(self, detector: Detector, calibration: list[Array], truth: dict[int, Array],
                 jpegs: dict[int, Jpeg]) -> None:  # fmt: skip
        self.detector, self.calibration, self.truth = detector, calibration, truth
        self.jpegs = jpegs
        self.uncut = detector.whole(detector.frames)
        self.ap50 = person_ap50(self.uncut, truth)
        self.rows: list[Row] = []
        self.measured: dict[str, dict[str, Measurement]] = {}

    def run_cut(self, cut: Cut, folder: Path) -> None:
        """All codecs on one cut."""
        detector = self.detector
        sessions = []
        for index, proto in enumerate(split_model(detector.loaded, detector.workload, [cut])):
            path = folder / f"shard-{index}.onnx"
            path.write_bytes(to_bytes(proto))
            sessions.append(OrtSession(path, optimization="extended"))
        head, tail = sessions

        def activations(images: Sequence[Array]) -> list[dict[str, Array]]:
            return [
                advance(head, {detector.input.name: detector.tensor(image)}, cut.names)
                for image in images
            ]

        frames = activations(detector.frames)
        outputs = detector.loaded.parts.output_names
        by_element: dict[str, Found] = {}
        self.measured[str(cut)] = {}
        for spec, label in codecs_for(activations(self.calibration)):
            if lossy_part(label) not in by_element:
                codec = make_codec(spec)
                found = []
                for frame in frames:
                    sent = codec.encode(frame)
                    taken = codec.decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)
                    found.append(detector.detections(advance(tail, taken, outputs)))
                by_element[lossy_part(label)] = found
            cost = measure_codec(spec, frames[:TIMED_FRAMES])
            self._add(cut, spec, label, cost, by_element[lossy_part(label)])

    def _add(self, cut: Cut, spec: CodecSpec, label: str, cost: Measurement, found: Found) -> None:
        row = Row(
            model=self.detector.name,
            cut=str(cut),
            raw_bytes=cost.raw_bytes,
            codec=label,
            is_lossless=spec.is_lossless,
            nbytes=cost.wire_bytes,
            encode_ms=round(1e3 * cost.encode_s, 3),
            decode_ms=round(1e3 * cost.decode_s, 3),
            agree_percent=round(agreement_percent(self.uncut, found), 2),
            ap50_pp=round(person_ap50(found, self.truth) - self.ap50, 2),
            total_ms=total_ms(cost.encode_s, cost.wire_bytes, cost.decode_s),
        )
        if spec.is_lossless and found != self.uncut:
            raise SystemExit(f"{row.model} at {row.cut}: {spec.name} changed the detections")
        fitting = [q for q, jpeg in self.jpegs.items() if jpeg.nbytes <= row.nbytes]
        if fitting and not spec.is_lossless:
            row.jpeg_quality = max(fitting)
            same = self.detector.at_quality(row.jpeg_quality, self.jpegs[row.jpeg_quality])
            row.jpeg_agree_percent = round(agreement_percent(self.uncut, same), 2)
        if label == spec.name:
            self.measured[str(cut)][spec.name] = cost
        self.rows.append(row)

    def costs(self) -> tuple[CodecCost, ...]:
        """For the planner; the loss of AP50 is that of the worst cut."""
        drops = {row.codec: 0.0 for row in self.rows}
        for row in self.rows:
            drops[row.codec] = max(drops[row.codec], -row.ap50_pp)
        return codec_costs(self.measured, accuracy_drop_pp=drops)


def print_jpeg(bench: Bench, quality: int) -> dict[str, Any]:
    """The baseline at one quality, as a line and as data."""
    jpeg = bench.jpegs[quality]
    found = bench.detector.at_quality(quality, jpeg)
    row = {
        "model": bench.detector.name,
        "quality": quality,
        "nbytes": jpeg.nbytes,
        "encode_ms": round(1e3 * jpeg.encode_s, 3),
        "decode_ms": round(1e3 * jpeg.decode_s, 3),
        "agree_percent": round(agreement_percent(bench.uncut, found), 2),
        "ap50_pp": round(person_ap50(found, bench.truth) - bench.ap50, 2),
        "total_ms": total_ms(jpeg.encode_s, jpeg.nbytes, jpeg.decode_s),
    }
    print_line(f"JPEG {quality} of the frame", row)
    return row


def print_line(name: str, row: Mapping[str, Any], tail: str = "") -> None:
    """One row of the table."""
    totals = " ".join(f"{row['total_ms'][mbit]:8.2f}" for mbit in MBITS)
    print(
        f"  {name:24} {row['nbytes'] / 1e3:8.1f} {row['encode_ms']:6.2f} {row['decode_ms']:6.2f} "
        f"{totals} {row['agree_percent']:7.2f} {row['ap50_pp']:+6.2f} {tail}",
        flush=True,
    )


def print_cut(rows: Sequence[Row]) -> None:
    """All codecs of one cut."""
    print(f"  cut {rows[0].cut[:70]} ({rows[0].raw_bytes / 1e3:.0f} kB)")
    for row in rows:
        tail = ""
        if row.jpeg_quality is not None:
            tail = f"q{row.jpeg_quality}: {row.jpeg_agree_percent:.2f}"
        print_line(row.codec, msgspec.to_builtins(row, str_keys=False), tail)


def report(benches: Sequence[Bench], jpegs: Sequence[dict[str, Any]], out: Path | None) -> None:
    """The line that other tools read, and everything as JSON."""
    rows = [row for bench in benches for row in bench.rows]
    lossy = [row for row in rows if not row.is_lossless]
    wins = [
        row.jpeg_agree_percent is not None and row.jpeg_agree_percent >= row.agree_percent
        for row in lossy
    ]
    good = [row for row in rows if row.agree_percent >= 99]
    result = {
        "codecs": len({row.codec for row in rows}),
        "best_ratio": round(max(row.raw_bytes / row.nbytes for row in good), 2),
        "jpeg_wins_share": round(float(np.mean(wins)), 3),
    }
    if out is not None:
        data = {
            **result,
            "machine": f"{platform.processor() or platform.machine()}, one thread, "
            f"onnxruntime {onnxruntime.__version__}",
            "row": [msgspec.to_builtins(row) for row in rows],
            "jpeg": list(jpegs),
            "codec_cost": {b.detector.name: msgspec.to_builtins(b.costs()) for b in benches},
        }
        out.write_text(json.dumps(data, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model, every ninth frame")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    arguments = parser.parse_args()
    if not VIDEO.is_dir():
        raise SystemExit(f"needs the real models and videos in {DATA}")
    cv2.setNumThreads(1)
    step = 9 if arguments.quick else 3
    frames = read_frames(0, (LABELLED - 1) // step + 1, step)
    calibration = read_frames(300, 8, 50)
    truth = labels(step)
    jpegs = {quality: as_jpeg(frames, quality) for quality in QUALITIES}
    benches, baseline = [], []
    print(
        f"  {'':24} {'kB':>8} {'enc':>6} {'dec':>6} "
        + " ".join(f"{mbit:>4} Mb/s" for mbit in MBITS)
        + f" {'agree %':>7} {'AP50':>6} JPEG of equal bytes: agree %"
    )
    for name in MODELS[:1] if arguments.quick else MODELS:
        bench = Bench(Detector(name, frames), calibration, truth, jpegs)
        benches.append(bench)
        print(f"{name}: AP50 of persons {bench.ap50:.1f} %, uncut, on {len(frames)} frames")
        baseline += [print_jpeg(bench, 90), print_jpeg(bench, 75)]
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            for cut in distinct_cuts(bench.detector):
                bench.run_cut(cut, Path(folder))
                print_cut([row for row in bench.rows if row.cut == str(cut)])
    report(benches, baseline, arguments.json)


if __name__ == "__main__":
    main()
