"""Activation codecs on real detectors: bytes, times and what becomes of the detections.

Three detectors, each cut early (a quarter of the work done), late, and in the middle where several
tensors cross; every third of 69 labelled frames of a video of pedestrians. Codecs of 256 steps take
their ranges from each frame; "fixed" are calibrated on eight later frames of the video, and so is
klt, with its step in root mean squares of the tensor behind its name. "klt:0.25 in 50 %" has room
for half of its bytes. "folded" is klt with its transform in the shards:
what it adds to both devices stands where others have encode and decode.
"agree" is the share of boxes that uncut and coded runs have in common (same label, overlap of half
or more, score of 0.3 or more): 2 matched / all boxes of both. "AP50" is that of persons against
the labels, as a difference to uncut in percentage points; a point is about one box. Bytes and times
are medians over frames of the best of three runs, one thread; the total is encode + bytes /
bandwidth + decode, without the round trip and the shards.
Beside them the mandatory baseline: the frame itself as JPEG and WebP, whole or shrunk to what the
model sees ("small"), and for every lossy codec the one of the highest quality that takes no more
bytes. There the receiver runs the whole model; this counts what crosses the link, not who computes.
A picture wins a row if it takes no more bytes than the lossy codec and agrees at least as well. The
best ratio is raw / wire among rows that agree to 99 % or more.

    python tests/bench/codecs.py [--quick] [--json FILE] [--plot FOLDER]
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import msgspec
import numpy as np
import onnxruntime

from edgekit.errors import ConfigError
from edgekit.spec.codec import CodecSpec, parse_codec
from edgekit.spec.plan import Cut
from edgekit.spec.planning import CodecCost
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import calibrate, fit_klt, make_codec
from edgekit.transport.codecs.cost import CAP_BYTES, Measurement, codec_costs, measure_codec
from tests.bench.codecs_folded import Folded, compare_folded
from tests.bench.codecs_rows import MBITS, CutModel, Rival, Row, integer_costs, total_ms
from tests.bench.codecs_world import (
    KINDS,
    VIDEO,
    Detector,
    Found,
    agreement_percent,
    distinct_cuts,
    labels,
    person_ap50,
    read_frames,
)
from tests.world import DATA

MODELS = ("fastestdet", "yolox", "nanodet")
LABELLED = 69
ELEMENTS = ("fp32", "fp16", "uint8", "uint8-channel")
KLT_STEPS = (0.1, 0.25, 0.5, 1.0, 2.0)
FOLDED_STEP = 0.5
PARTS_OF, PARTS_PERCENT = 0.25, (30, 50, 70)
STEPPED = ("uint8", "uint8-channel")
PACKINGS = ("", "+lz4", "+zstd")
QUALITIES = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 98, 100)
SHOWN_QUALITIES = (90, 75)
CURVE = (2, 5, 10, 20, 40, 60, 75, 90, 95)
TIMED_FRAMES = 8


def codecs_for(calibration: Sequence[Mapping[str, Array]]) -> list[tuple[CodecSpec, str]]:
    """All codecs with their names in the table; those with parameters calibrated for one cut."""
    plain = [parse_codec(element + packing) for element in ELEMENTS for packing in PACKINGS]
    fixed = [calibrate(parse_codec(f"{element}+zstd"), calibration) for element in STEPPED]
    klts = []
    for relative_step in KLT_STEPS:
        with contextlib.suppress(ConfigError):  # the outputs of a model have no channels
            klts.append(fit_klt(calibration, relative_step=relative_step))
    return [
        *((spec, spec.name) for spec in plain),
        *((spec, f"{spec.name} fixed") for spec in fixed),
        *((spec, spec.name) for spec in klts),
    ]


def lossy_part(label: str) -> str:
    """What decides over the detections: packing loses nothing."""
    return label.replace("+lz4", "").replace("+zstd", "")


class Bench:
    """Everything that is measured about one detector."""

    def __init__(
        self, detector: Detector, calibration: list[Array], truth: dict[int, Array]
    ) -> None:
        self.detector, self.calibration, self.truth = detector, calibration, truth
        self.uncut = detector.whole(detector.frames)
        self.ap50 = person_ap50(self.uncut, truth)
        self.rows: list[Row] = []
        self.measured: dict[str, dict[str, Measurement]] = {}
        self.folded: dict[str, Folded] = {}
        self.integers: dict[str, dict[str, Measurement]] = {}

    def run_cut(self, cut: Cut, folder: Path) -> None:
        """All codecs on one cut."""
        one = CutModel(self.detector, cut, folder)
        frames = one.activations(self.detector.frames)
        calibration = one.activations(self.calibration)
        by_element: dict[str, Found] = {}
        self.measured[str(cut)] = {}
        for spec, label in codecs_for(calibration):
            if lossy_part(label) not in by_element:
                by_element[lossy_part(label)] = self._coded(one, spec, frames, None)[0]
            cost = measure_codec(spec, frames[:TIMED_FRAMES])
            self._add(cut, spec, label, cost, by_element[lossy_part(label)])
            if spec.relative_step == PARTS_OF:
                self._add_parts(one, spec, frames, cost)
            if spec.relative_step == FOLDED_STEP:
                self._add_folded(one, spec, cost)
        self.integers[str(cut)] = integer_costs(calibration, frames[:TIMED_FRAMES])

    def _coded(
        self, one: CutModel, spec: CodecSpec, frames: Sequence[Mapping[str, Array]],
        budget_bytes: int | None,
    ) -> tuple[Found, float]:  # fmt: skip
        """What is found in what arrives, and the median bytes."""
        codec = make_codec(spec)
        found, nbytes = [], []
        for frame in frames:
            sent = codec.encode(frame, budget_bytes=budget_bytes)
            taken = codec.decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)
            found.append(one.found(one.tail, taken))
            nbytes.append(sent.header.payload_bytes)
        return found, float(np.median(nbytes))

    def _add_parts(
        self, one: CutModel, spec: CodecSpec, frames: Sequence[Mapping[str, Array]],
        whole: Measurement,
    ) -> None:  # fmt: skip
        """The codec with room for some of its bytes only."""
        for percent in PARTS_PERCENT:
            budget_bytes = int(whole.wire_bytes * percent / 100)
            found, nbytes = self._coded(one, spec, frames, budget_bytes)
            cost = measure_codec(spec, frames[:TIMED_FRAMES], budget_bytes=budget_bytes)
            cost = msgspec.structs.replace(cost, wire_bytes=nbytes)
            self._add(one.cut, spec, f"{spec.name} in {percent} %", cost, found)

    def _add_folded(self, one: CutModel, spec: CodecSpec, whole: Measurement) -> None:
        """The codec with its transform in the shards, and both ways timed in turns."""
        folded = compare_folded(one, spec, self.detector.frames)
        self.folded[str(one.cut)] = folded
        cost = msgspec.structs.replace(
            whole,
            wire_bytes=folded.nbytes,
            encode_s=max(0.0, folded.folded_ms[0] / 1e3),
            decode_s=max(0.0, folded.folded_ms[1] / 1e3),
        )
        self._add(one.cut, spec, f"{spec.name} folded", cost, folded.found)

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
        for kind in KINDS if not spec.is_lossless else ():
            fitting = [q for q in QUALITIES if self.detector.pictures(kind, q).nbytes <= row.nbytes]
            if fitting:
                same = self.detector.found_in(kind, max(fitting))
                agree = round(agreement_percent(self.uncut, same), 2)
                row.rivals[kind] = Rival(max(fitting), agree)
        if label == spec.name:
            self.measured[str(cut)][spec.name] = cost
        self.rows.append(row)

    def pictures(self, qualities: Sequence[int]) -> list[dict[str, Any]]:
        """The baseline at some qualities."""
        rows = []
        for kind in KINDS:
            for quality in qualities:
                one = self.detector.pictures(kind, quality)
                found = self.detector.found_in(kind, quality)
                rows.append({
                    "model": self.detector.name,
                    "kind": kind,
                    "quality": quality,
                    "nbytes": one.nbytes,
                    "encode_ms": round(1e3 * one.encode_s, 3),
                    "decode_ms": round(1e3 * one.decode_s, 3),
                    "agree_percent": round(agreement_percent(self.uncut, found), 2),
                    "ap50_pp": round(person_ap50(found, self.truth) - self.ap50, 2),
                    "total_ms": total_ms(one.encode_s, one.nbytes, one.decode_s),
                })  # fmt: skip
        return rows

    def costs(self) -> tuple[CodecCost, ...]:
        """For the planner; the loss of AP50 is that of the worst cut."""
        drops = {row.codec: 0.0 for row in self.rows}
        for row in self.rows:
            drops[row.codec] = max(drops[row.codec], -row.ap50_pp)
        return codec_costs(self.measured, accuracy_drop_pp=drops)


def print_line(name: str, row: Mapping[str, Any], tail: str = "") -> None:
    """One row of the table."""
    totals = " ".join(f"{row['total_ms'][mbit]:8.2f}" for mbit in MBITS)
    print(
        f"  {name:24} {row['nbytes'] / 1e3:8.1f} {row['encode_ms']:6.2f} {row['decode_ms']:6.2f} "
        f"{totals} {row['agree_percent']:7.2f} {row['ap50_pp']:+6.2f} {tail}",
        flush=True,
    )


def print_cut(bench: Bench, cut: Cut) -> None:
    """All codecs of one cut."""
    rows = [row for row in bench.rows if row.cut == str(cut)]
    print(f"  cut {rows[0].cut[:70]} ({rows[0].raw_bytes / 1e3:.0f} kB)")
    for row in rows:
        tail = "  ".join(
            f"q{row.rivals[kind].quality}: {row.rivals[kind].agree_percent:.2f}"
            if kind in row.rivals
            else "-"
            for kind in KINDS
            if row.rivals
        )
        print_line(row.codec, msgspec.to_builtins(row, str_keys=False), tail)
    if (folded := bench.folded.get(str(cut))) is not None:
        ways = (("numpy", folded.numpy_ms), ("folded", folded.folded_ms))
        text = ", ".join(f"{name} {one:.2f} + {two:.2f} ms" for name, (one, two) in ways)
        merged = sum("merged" in note for note in folded.notes)
        print(
            f"  klt:{FOLDED_STEP:g}, added to both devices: {text}; {merged} of "
            f"{len(folded.notes)} transforms merged into a convolution"
        )
    costs = bench.integers[str(cut)].items()
    text = ", ".join(
        f"{name} {cost.wire_bytes / 1e3:.1f} kB in {1e3 * cost.encode_s:.2f} + "
        f"{1e3 * cost.decode_s:.2f} ms"
        for name, cost in costs
    )
    print(f"  its integers between int8 shards: {text}")


def result_of(benches: Sequence[Bench]) -> dict[str, float]:
    """What other tools read."""
    rows = [row for bench in benches for row in bench.rows]
    lossy = [row for row in rows if not row.is_lossless]
    good = [row for row in rows if row.agree_percent >= 99]
    folded = [one for bench in benches for one in bench.folded.values()]
    speedups = [sum(one.numpy_ms) / max(sum(one.folded_ms), 1e-3) for one in folded]
    wins = {
        f"{kind.lower().replace(' ', '_')}_wins_share": round(
            float(np.mean([row.loses_to(kind) for row in lossy])), 3
        )
        for kind in KINDS
    }
    return {
        "codecs": len({row.codec for row in rows}),
        "best_ratio": round(max(row.raw_bytes / row.nbytes for row in good), 2),
        **wins,
        "folded_klt_speedup": round(float(np.median(speedups)), 2),
    }


def report(benches: Sequence[Bench], pictures: Sequence[dict[str, Any]], out: Path | None) -> None:
    """The line that other tools read, and everything as JSON."""
    result = result_of(benches)
    if out is not None:
        data = {
            **result,
            "machine": f"{platform.processor() or platform.machine()}, one thread, "
            f"onnxruntime {onnxruntime.__version__}",
            "row": [msgspec.to_builtins(row) for bench in benches for row in bench.rows],
            "picture": list(pictures),
            "folded": {
                b.detector.name: {
                    cut: {"numpy_ms": one.numpy_ms, "folded_ms": one.folded_ms, "notes": one.notes}
                    for cut, one in b.folded.items()
                }
                for b in benches
            },
            "integers": {b.detector.name: msgspec.to_builtins(b.integers) for b in benches},
            "codec_cost": {b.detector.name: msgspec.to_builtins(b.costs()) for b in benches},
        }
        out.write_text(json.dumps(data, indent=2) + "\n")
    print("RESULT " + " ".join(f"{key}={value}" for key, value in result.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model, every ninth frame")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw figures there")
    arguments = parser.parse_args()
    if not VIDEO.is_dir():
        raise SystemExit(f"needs the real models and videos in {DATA}")
    cv2.setNumThreads(1)
    step = 9 if arguments.quick else 3
    frames = read_frames(0, (LABELLED - 1) // step + 1, step)
    calibration = read_frames(300, 8, 50)
    truth = labels(step)
    benches, pictures = [], []
    print(
        f"  {'':24} {'kB':>8} {'enc':>6} {'dec':>6} "
        + " ".join(f"{mbit:>4} Mb/s" for mbit in MBITS)
        + f" {'agree %':>7} {'AP50':>6} agree % at equal bytes of {', '.join(KINDS)}"
    )
    for name in MODELS[:1] if arguments.quick else MODELS:
        bench = Bench(Detector(name, frames), calibration, truth)
        benches.append(bench)
        print(f"{name}: AP50 of persons {bench.ap50:.1f} %, uncut, on {len(frames)} frames")
        pictures += bench.pictures(CURVE)
        for row in pictures:
            if row["model"] == name and row["quality"] in SHOWN_QUALITIES:
                print_line(f"{row['kind']} {row['quality']} of the frame", row)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            for cut in distinct_cuts(bench.detector):
                bench.run_cut(cut, Path(folder))
                print_cut(bench, cut)
    if arguments.plot is not None:
        from tests.bench.codecs_plot import plot_rates, plot_times

        arguments.plot.mkdir(parents=True, exist_ok=True)
        rows = [row for bench in benches for row in bench.rows]
        for draw in (plot_rates, plot_times):
            for path in draw(rows, pictures, arguments.plot):
                print(f"drawn: {path}")
    report(benches, pictures, arguments.json)


if __name__ == "__main__":
    main()
