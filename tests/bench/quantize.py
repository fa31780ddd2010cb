"""Int8 of real models: every way to get there beside fp32 and fp16, and what the gate makes of it.

Classifiers (RepVGG of samples/classify, ResNet-20, ResNet-56) are calibrated on 48 training
pictures of CIFAR-10 and scored on its test pictures. YOLOX-nano and NanoDet are calibrated on the
45 pictures of the COCO subset without labelled persons and scored on the 55 with, and again, as
they are, on the 69 labelled frames of the vtest video; "nanodet-vtest" is calibrated on later
frames of that video. The yard detector is scored by its helmets under 12 px.

    plain      every operator in integers, MinMax, nothing corrected: of the recipe of this machine,
               with one scale per weight tensor, and with signed integers (s8s8: weights of 8 bits,
               whose sums an x86 processor without VNNI cuts off, as it would in use)
    int8       as `edgekit quantize --calibrator NAME` makes it, for each strategy of its blocks
               (entropy: for two classifiers, folded whole)
    auto       as `edgekit quantize` chooses

Times are of one frame in ONNX Runtime, one thread, all rows of a model in turns. "gate_errors"
counts the models for which the automatic choice is more than the noise slower than the fastest row
within the limit of 1 pp, or beyond that limit itself; plain rows are for comparison only.

    python tests/bench/quantize.py [--quick] [--only MODEL] [--json FILE]

FILE keeps the models that are done: the same command goes on behind them.
"""

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import onnx
import onnxruntime

from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.candidates import Candidate, best_candidate, plain_candidate
from edgekit.builder.quantize.float_model import float_model
from edgekit.builder.quantize.gate import DEFAULT_MAX_DROP_PP, quantize_model
from edgekit.builder.quantize.half import half
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.ranges import ALL_CALIBRATORS, CALIBRATORS
from edgekit.builder.quantize.recipes import Recipe, recipe_for, target_here
from edgekit.builder.quantize.score import AccuracyDrop, wilson_interval
from edgekit.builder.race import MIN_GAIN, race
from edgekit.runtime.ort import OrtSession
from edgekit.spec.fusion import S3, STRATEGIES, FusionRule, FusionStrategy
from tests.bench.quantize_world import (
    IMAGENET,
    NANODET,
    OURS,
    RESNETS,
    SAMPLES,
    YOLOX,
    Answers,
    Boxes,
    Subject,
    classifier,
    coco_detector,
    session_of,
    vtest_detector,
    vtest_scorer,
    yard_detector,
)
from tests.world import DATA

CLASSIFIERS = {
    "cifar10-repvgg": (SAMPLES / "classify/cifar10-repvgg.pt", OURS),
    "resnet20": (RESNETS / "resnet20_cifar10.onnx", IMAGENET),
    "resnet56": (RESNETS / "resnet56_cifar10.onnx", IMAGENET),
}
DETECTORS = {"yolox": YOLOX, "nanodet": NANODET}
MODELS = (*DETECTORS, "nanodet-vtest", "yard", *CLASSIFIERS)
QUICK_MODELS, QUICK_PICTURES = ("cifar10-repvgg", "nanodet"), 1000
ENTROPY_MODELS = ("cifar10-repvgg", "resnet20")
"""ONNX Runtime's search for the least entropy takes 40 s for a small classifier, and was stopped
after ten minutes for YOLOX-nano: its histograms grow with the range, and its time with their
square."""
YARD_SCENES = 25
RACE_S = 8.0
NOISE = 2 * MIN_GAIN
"""Of a ratio of two times: both medians move by MIN_GAIN at most."""

Row = dict[str, Any]


class Table:
    """The rows of one subject: each a graph, scored at once and timed together at the end."""

    def __init__(self, subject: Subject, also: Boxes | None) -> None:
        self.subject, self.also = subject, also
        self.rows: list[Row] = []
        self._sessions: list[OrtSession] = []
        self._fp32: tuple[Answers, Answers | None] | None = None

    def add(self, way: str, proto: onnx.ModelProto, **facts: Any) -> None:
        """Score ``proto`` against the first row, which is fp32."""
        session = session_of(proto)
        answers = self.subject.scorer.answers(session)
        others = self.also.answers(session) if self.also else None
        if self._fp32 is None:
            self._fp32 = answers, others
        drop = self.subject.scorer.drop(self._fp32[0], answers)
        row = {"way": way, "bytes": proto.ByteSize(), **facts, "drop": asdict(drop)}
        if self.also:
            row["also"] = asdict(self.also.drop(self._fp32[1] or (), others or ()))
        self.rows.append(row)
        self._sessions.append(session)
        print_row(row)

    def add_int8(self, way: str, candidate: Candidate, seconds: float, **facts: Any) -> None:
        """A quantized form."""
        self.add(
            way, candidate.proto, **facts, calibrator=candidate.calibrator,
            bias_corrected=candidate.bias_corrected, equalized=candidate.equalized,
            agreement=candidate.agreement, fidelity_db=candidate.fidelity_db,
            float_count=len(candidate.selection.float), made_in_s=round(seconds, 1),
        )  # fmt: skip

    def time(self) -> None:
        """Give every row its milliseconds."""
        inputs = {
            self.subject.loaded.inputs[0].name: self.subject.frames.tensors[0],
        }
        times_s = race(self._sessions, inputs, budget_s=RACE_S)
        for row, time_s in zip(self.rows, times_s, strict=True):
            row["ms"] = 1e3 * time_s


def measure(
    subject: Subject,
    *,
    also: Boxes | None,
    strategies: Sequence[FusionStrategy],
    entropy: bool,
) -> Row:
    """All rows of one subject."""
    recipe = recipe_for(target_here())
    table = Table(subject, also)
    folded = float_model(subject.loaded)
    inputs = [{folded.inputs[0].name: tensor} for tensor in subject.frames.tensors]
    table.add("fp32", folded.proto, strategy=str(S3))
    table.add("fp16", half(folded.proto), strategy=str(S3))
    for way, one in _plain_recipes(recipe).items():
        started_s = time.perf_counter()
        plain = plain_candidate(folded, select_operators(folded, ("none",)), inputs, one)
        table.add_int8(way, plain, time.perf_counter() - started_s, strategy=str(S3))
    for strategy in strategies:
        model = float_model(subject.loaded, [FusionRule(strategy=strategy)] * (strategy != S3))
        calibrators = ALL_CALIBRATORS if entropy and strategy == S3 else CALIBRATORS
        for calibrator in calibrators:
            started_s = time.perf_counter()
            best = _int8(model, inputs, recipe, calibrator, subject)
            spent_s = time.perf_counter() - started_s
            table.add_int8("int8", best, spent_s, strategy=str(strategy))
    verdict = quantize_model(
        subject.loaded, subject.frames, recipe, held_out=subject.scorer, race_s=RACE_S / 2,
        card=subject.card,
    )  # fmt: skip
    table.add_int8("auto", verdict.candidate, 0.0, strategy=str(S3))
    table.time()
    result = {
        "model": subject.name, "rows": table.rows, "chosen": verdict.precision,
        "reasons": list(verdict.reasons),
    }  # fmt: skip
    return result | _judged(table.rows, verdict.precision)


def _int8(
    model: LoadedModel, inputs: list[Any], recipe: Recipe, calibrator: str, subject: Subject
) -> Candidate:
    """With the defaults of the command, but one calibrator."""
    selection = select_operators(model)
    best, _ = best_candidate(
        model, selection, inputs, recipe, (calibrator,), spare=True, card=subject.card
    )
    return best


def _plain_recipes(recipe: Recipe) -> Mapping[str, Recipe]:
    return {
        "plain": recipe,
        "plain per tensor": replace(recipe, weights_per_channel=False),
        "plain s8s8": recipe_for("tensorrt"),
    }


def _judged(rows: Sequence[Row], precision: str) -> Row:
    """The best admissible row, and whether the choice is as good."""
    fp32 = rows[0]
    auto = next(row for row in rows if row["way"] == ("auto" if precision == "int8" else precision))
    choices = [row for row in rows if not row["way"].startswith("plain") and _is_admissible(row)]
    best = min(choices, key=lambda row: row["ms"])
    is_slower = auto["ms"] * (1 - NOISE) > best["ms"]
    fastest_int8 = min(
        (row["ms"] for row in rows if row["way"] in ("int8", "auto")), default=math.nan
    )
    return {
        "best": {key: best.get(key) for key in ("way", "strategy", "calibrator", "ms")},
        "is_gate_error": is_slower or not _is_admissible(auto),
        "auto_speed_up": fp32["ms"] / next(r["ms"] for r in rows if r["way"] == "auto"),
        "fastest_int8_speed_up": fp32["ms"] / fastest_int8,
    }


def _is_admissible(row: Row) -> bool:
    return bool(row["drop"]["drop_pp"] <= DEFAULT_MAX_DROP_PP)


def print_row(row: Row) -> None:
    """Accuracy and size, as soon as they are known."""
    drop = AccuracyDrop(**row["drop"])
    made = ""
    if "calibrator" in row:
        fixes = [word for word in ("equalized", "bias_corrected") if row[word]]
        agreement = "" if row["agreement"] is None else f"agreement {row['agreement']:.3f}, "
        made = (
            f"  {row['calibrator']}, {'+'.join(fixes) or 'as is'}, {agreement}"
            f"{row['fidelity_db']:.1f} dB, {row['float_count']} in float, {row['made_in_s']} s"
        )
    also = ""
    if "also" in row:
        other = AccuracyDrop(**row["also"])
        also = f"  vtest {other.drop_pp:6.2f} ({other.low_pp:.2f} to {other.high_pp:.2f})"
    print(
        f"    {row['way']:16} {row['strategy']:8} {_accuracy(drop)}  drop {drop.drop_pp:6.2f} pp "
        f"({drop.low_pp:.2f} to {drop.high_pp:.2f}){also}  {row['bytes'] / 1e6:.2f} MB{made}",
        flush=True,
    )


def _accuracy(drop: AccuracyDrop) -> str:
    if drop.metric != "top-1":
        return f"{drop.after:.4f}"
    right = round(drop.after * drop.picture_count)
    low, high = wilson_interval(right, drop.picture_count)
    return f"{drop.after:.4f} ({low:.4f} to {high:.4f})"


def print_times(result: Row) -> None:
    """The times of all rows, and the verdict."""
    for row in result["rows"]:
        speed_up = result["rows"][0]["ms"] / row["ms"]
        name = f"{row['way']} {row['strategy']} {row.get('calibrator', '')}"
        print(f"    {name:40} {row['ms']:8.3f} ms  {speed_up:.2f} x fp32")
    print(f"    chosen {result['chosen']}: {'; '.join(result['reasons'])}")
    best = result["best"]
    print(
        f"    best admissible row: {best['way']} {best['strategy']} {best['calibrator'] or ''} "
        f"{best['ms']:.3f} ms; gate error: {result['is_gate_error']}",
        flush=True,
    )


def subjects(home: Path, *, quick: bool) -> Mapping[str, Callable[[], Subject]]:
    """How each model is set up."""
    at_most = QUICK_PICTURES if quick else None
    made: dict[str, Callable[[], Subject]] = {
        "nanodet-vtest": partial(vtest_detector, "nanodet-vtest", NANODET),
        "yard": partial(yard_detector, "yard", YARD_SCENES),
    }
    for name, path in DETECTORS.items():
        made[name] = partial(coco_detector, name, path)
    for name, (path, card) in CLASSIFIERS.items():
        made[name] = partial(classifier, name, path, card, home, at_most)
    return made


def run(name: str, setup: Callable[[], Subject], *, quick: bool) -> Row:
    """One model from its file to its rows."""
    started_s = time.perf_counter()
    subject = setup()
    print(f"{name}: {subject.loaded.name}, {len(subject.frames.tensors)} calibration frames")
    also = None
    if name in DETECTORS:
        assert subject.card is not None
        also = vtest_scorer(subject.loaded, subject.card)
    has_blocks = bool(find_blocks(subject.loaded).blocks)
    result = measure(
        subject,
        also=also,
        strategies=STRATEGIES if has_blocks and not quick else (S3,),
        entropy=name in ENTROPY_MODELS and not quick,
    )
    result["spent_s"] = time.perf_counter() - started_s
    print_times(result)
    print(f"    {result['spent_s']:.0f} s", flush=True)
    return result


def auto_drop_pp(results: Mapping[str, Row], name: str) -> float:
    """What the automatic choice of int8 loses on one model; nan if it was not measured."""
    rows = results[name]["rows"] if name in results else ()
    return next((row["drop"]["drop_pp"] for row in rows if row["way"] == "auto"), math.nan)


def main() -> None:
    """Measure every model and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two models, 1000 pictures")
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep rows, go on behind them")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"needs the real models and pictures in {DATA}")
    print(f"{platform.machine()} ({target_here()}), ONNX Runtime {onnxruntime.__version__}")
    wanted = arguments.only or (QUICK_MODELS if arguments.quick else MODELS)
    kept = arguments.json
    results: dict[str, Row] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        known = subjects(Path(folder), quick=arguments.quick)
        for name in wanted:
            if name in results:
                print(f"{name}: from {kept}")
                print_times(results[name])
                continue
            results[name] = run(name, known[name], quick=arguments.quick)
            if kept:
                kept.write_text(json.dumps(results, indent=2) + "\n")
    chosen = [results[name] for name in wanted]
    errors = sum(one["is_gate_error"] for one in chosen)
    print(
        f"RESULT yolox_ap50_drop_pp={auto_drop_pp(results, 'yolox'):.2f} "
        f"nanodet_ap50_drop_pp={auto_drop_pp(results, 'nanodet'):.2f} "
        f"int8_speedup_median={median(one['auto_speed_up'] for one in chosen):.2f} "
        f"gate_errors={errors}"
    )
    raise SystemExit(1 if errors else 0)


if __name__ == "__main__":
    main()
