"""Int8 of real models: plain quantization of everything, ours, and what the gate makes of it.

Detectors (YOLOX-nano, NanoDet) are calibrated on the pictures of the COCO subset without labelled
persons and scored on those with: AP50 of persons. Classifiers (CIFAR-10 networks of
samples/classify, ResNet-20) are calibrated on training pictures and scored on test pictures: top-1.
"plain" quantizes every operator with MinMax ranges and corrects nothing; "ours" is what
`edgekit quantize` does by default. Both with the recipe of this machine; times are of one frame in
ONNX Runtime, one thread, in turns with fp32. "gate errors" counts the models for which the gate
took another precision than a second, independent timing and the accuracy that was measured demand.

    python tests/bench/quantize.py [--quick] [--json FILE]
"""

import argparse
import json
import math
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import numpy as np
import onnx
import onnxruntime

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import to_bytes
from edgekit.builder.quantize.candidates import plain_candidate
from edgekit.builder.quantize.evaluation_sets import class_set, detection_set
from edgekit.builder.quantize.float_model import float_model
from edgekit.builder.quantize.frames import CalibrationFrames, calibration_frames, image_input
from edgekit.builder.quantize.gate import DEFAULT_MAX_DROP_PP, Verdict, quantize_model
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.recipes import recipe_for, target_here
from edgekit.builder.quantize.score import AccuracyDrop, EvaluationSet, wilson_interval
from edgekit.builder.race import MIN_GAIN, race
from edgekit.builder.train.augment import PIXEL_MEAN, PIXEL_SCALE, PIXEL_STD
from edgekit.builder.train.datasets import load_image_set
from edgekit.runtime.ort import OrtSession
from edgekit.spec.card import InputCard
from edgekit.vision.cards import resolve_card
from tests.world import DATA

COCO = DATA / "datasets/coco_val2017_subset"
CIFAR = DATA / "datasets/cifar10_jpeg"
DETECTORS = {
    "yolox": DATA / "models/yolox_nano/yolox_nano_416x416.onnx",
    "nanodet": DATA / "models/nanodet_m/nanodet_m_320.onnx",
}
SAMPLES = Path(__file__).parents[2] / "samples/classify"
OURS = InputCard(
    resize="stretch", color="rgb", scale=PIXEL_SCALE, mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3
)
IMAGENET = InputCard(
    resize="stretch", color="rgb", scale=1 / 255, mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)  # fmt: skip
CLASSIFIERS = {
    "resnet20": (DATA / "models/resnet_cifar10/resnet20_cifar10.onnx", IMAGENET),
    "cifar10-repvgg": (SAMPLES / "cifar10-repvgg.pt", OURS),
    "cifar10-rep-resnet": (SAMPLES / "cifar10-rep-resnet.pt", OURS),
    "cifar10-rep-googlenet": (SAMPLES / "cifar10-rep-googlenet.pt", OURS),
}
QUICK_CLASSIFIERS, QUICK_PICTURES = ("resnet20", "cifar10-repvgg"), 1000
RACE_S = 2.0


def measure(
    name: str, loaded: LoadedModel, frames: CalibrationFrames, held_out: EvaluationSet
) -> dict[str, Any]:
    """One model: plain and ours beside fp32, the verdict, and a second timing."""
    recipe = recipe_for(target_here())
    verdict = quantize_model(loaded, frames, recipe, held_out=held_out, race_s=RACE_S)
    model = float_model(loaded)
    inputs = [{model.inputs[0].name: tensor} for tensor in frames.tensors]
    everything = select_operators(model, ("none",))
    plain = plain_candidate(model, everything, inputs, recipe)
    with tempfile.TemporaryDirectory() as folder:
        sessions = [
            session(proto, Path(folder) / f"{number}.onnx")
            for number, proto in enumerate((model.proto, verdict.candidate.proto, plain.proto))
        ]
    plain_drop = held_out.compare(sessions[0], sessions[2], lambda done: None)
    times_s = race(sessions, inputs[0], budget_s=RACE_S)
    assert verdict.drop is not None
    return {
        "model": name,
        "chosen": verdict.precision,
        "reasons": list(verdict.reasons),
        "ours": asdict(verdict.drop),
        "plain": asdict(plain_drop),
        "ms_fp32_ours_plain": [round(1e3 * one, 3) for one in times_s],
        "speed_up": verdict.speed_up,
        "calibrator": verdict.candidate.calibrator,
        "bias_corrected": verdict.candidate.bias_corrected,
        "float_operators": len(verdict.candidate.selection.float),
        "operators": len(verdict.candidate.selection.float + verdict.candidate.selection.integer),
        "bytes_fp32_int8": [verdict.float_bytes, verdict.int8_bytes],
        "is_gate_error": is_gate_error(verdict, times_s[0] / times_s[1]),
    }


def session(proto: onnx.ModelProto, path: Path) -> OrtSession:
    """A graph as a device would load it."""
    path.write_bytes(to_bytes(proto))
    return OrtSession(path)


def is_gate_error(verdict: Verdict, speed_up: float) -> bool:
    """Whether a second timing and the measured accuracy demand the other precision.

    Within the noise of both timings, twice MIN_GAIN, either choice is right.
    """
    assert verdict.drop is not None
    if not verdict.drop.drop_pp <= DEFAULT_MAX_DROP_PP:
        return verdict.precision == "int8"
    edge = 1 / (1 - MIN_GAIN)
    if verdict.precision == "int8":
        return speed_up < edge - 2 * MIN_GAIN
    return speed_up > edge + 2 * MIN_GAIN


def measure_detector(name: str, path: Path, home: Path) -> dict[str, Any]:
    """Calibrated on the pictures without labels, scored on those with."""
    loaded = load_model(path)
    card, _ = resolve_card(path, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs)
    given = image_input(loaded)
    unlabelled = home / "unlabelled"
    unlabelled.mkdir(exist_ok=True)
    for picture in sorted((COCO / "images").glob("*.jpg")):
        link = unlabelled / picture.name
        if not (COCO / "labels_person" / f"{picture.stem}.txt").exists() and not link.exists():
            link.symlink_to(picture.resolve())
    frames = calibration_frames(f"images:{unlabelled}", card.input, given)
    return measure(name, loaded, frames, detection_set(COCO, card, given))


def measure_classifier(
    name: str, path: Path, card: InputCard, home: Path, at_most: int | None
) -> dict[str, Any]:
    """Calibrated on 48 training pictures, scored on test pictures."""
    loaded = load_model(path)
    given = image_input(loaded)
    folder = home / "calibration"
    if not folder.exists():
        folder.mkdir()
        training = load_image_set(CIFAR, home / "cache").train.pixels
        for number in np.linspace(0, len(training) - 1, 48).astype(int).tolist():
            cv2.imwrite(str(folder / f"{number:05}.png"), training[number][..., ::-1])
    frames = calibration_frames(f"images:{folder}", card, given)
    held_out = class_set(CIFAR, card, given, home / "cache", at_most=at_most)
    return measure(name, loaded, frames, held_out)


def print_row(row: dict[str, Any]) -> None:
    """One model in three lines: accuracy, cost, verdict."""
    ours, plain = AccuracyDrop(**row["ours"]), AccuracyDrop(**row["plain"])
    before = f"{ours.before:.4f}"
    if ours.metric == "top-1":
        count = ours.picture_count
        low, high = wilson_interval(round(ours.before * count), count)
        before += f" ({low:.4f} to {high:.4f})"
    print(f"{row['model']}: {ours.metric} on {ours.picture_count} pictures, fp32 {before}")
    for way, drop in (("ours", ours), ("plain", plain)):
        print(
            f"    {way:5} {drop.after:.4f}, drop {drop.drop_pp:6.2f} pp "
            f"({drop.low_pp:.2f} to {drop.high_pp:.2f})"
        )
    ms, size = row["ms_fp32_ours_plain"], row["bytes_fp32_int8"]
    corrected = "corrected" if row["bias_corrected"] else "kept"
    print(
        f"    ms fp32 {ms[0]}, ours {ms[1]}, plain {ms[2]}; bytes {size[0]} -> {size[1]}; "
        f"{row['calibrator']}, biases {corrected}, {row['float_operators']} of "
        f"{row['operators']} operators in float"
    )
    print(f"    chosen {row['chosen']}: {'; '.join(row['reasons'])}", flush=True)


def drop_pp(rows: Sequence[dict[str, Any]], name: str) -> float:
    """What ours loses on one model; nan if it was not measured."""
    return next((row["ours"]["drop_pp"] for row in rows if row["model"] == name), math.nan)


def main() -> None:
    """Measure every model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two classifiers, 1000 pictures")
    parser.add_argument("--only", action="append", help="models by name, such as yolox")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"needs the real models and pictures in {DATA}")
    print(f"{platform.machine()} ({target_here()}), ONNX Runtime {onnxruntime.__version__}")
    wanted = arguments.only or [
        *DETECTORS,
        *(QUICK_CLASSIFIERS if arguments.quick else CLASSIFIERS),
    ]
    at_most = QUICK_PICTURES if arguments.quick else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            if name in DETECTORS:
                rows.append(measure_detector(name, DETECTORS[name], Path(folder)))
            else:
                path, card = CLASSIFIERS[name]
                rows.append(measure_classifier(name, path, card, Path(folder), at_most))
            print_row(rows[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    errors = sum(row["is_gate_error"] for row in rows)
    print(
        f"RESULT yolox_ap50_drop_pp={drop_pp(rows, 'yolox'):.2f} "
        f"nanodet_ap50_drop_pp={drop_pp(rows, 'nanodet'):.2f} "
        f"int8_speedup_median={median(row['speed_up'] for row in rows):.2f} gate_errors={errors}"
    )
    raise SystemExit(1 if errors else 0)


if __name__ == "__main__":
    main()
