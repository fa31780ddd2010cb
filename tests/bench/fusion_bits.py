"""What each fusion strategy costs at fewer bits, and what mends it: real weights, real pictures.

Integers of fewer than 8 bits are simulated with operators that every runtime has: weights are
rounded to n bits, and before each QuantizeLinear a Clip closes the window of its 8 bits to n bits,
with the scale that fits. Run as written, without integer kernels or rewriting, so that nothing but
the rounding differs.

    strategies  accuracy of cifar10-repvgg and of the yard detector (AP50 of helmets under 12 px)
                at W8A8, W6A8, W4A8 and W8A6, weights per channel and per tensor, for the four
                strategies; drops are from fp32, gaps from S3, with 95 % intervals of matched
                pictures. MinMax ranges, nothing corrected, head and decoding in float.
    fixes       the six networks of samples/classify, folded whole (S3), W8A8: bias correction and
                equalisation, alone and together

    python tests/bench/fusion_bits.py [--quick] [--part strategies|fixes] [--json FILE]

FILE keeps the tables that are done: the same command goes on behind them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from onnx import helper

from edgekit.builder.checkpoint import load_checkpoint
from edgekit.builder.export import export_module
from edgekit.builder.fold.torch_front import fold_module
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.normalize import remove_unread
from edgekit.builder.probe import to_bytes
from edgekit.builder.quantize.bias import correct_biases
from edgekit.builder.quantize.equalize import equalized
from edgekit.builder.quantize.float_model import float_model
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.qdq import dequantized_weights, quantized
from edgekit.builder.quantize.ranges import ranges_of
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.quantize.score import AccuracyDrop, class_drop
from edgekit.builder.train.augment import to_input
from edgekit.builder.train.datasets import LabelledImages, load_image_set
from edgekit.builder.train.evaluate import evaluate
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session
from edgekit.spec.fusion import S3, STRATEGIES, FusionRule, FusionStrategy
from edgekit.spec.tensors import Array
from tests.bench.quantize_world import Answers, Subject, yard_detector
from tests.world import DATA

BATCH = 100
CALIBRATION_BATCHES = 2
BITS = ((8, 8), (6, 8), (4, 8), (8, 6))
"""Of weights and of activations."""
SAMPLES = Path(__file__).parents[2] / "samples/classify"
SETS = {"cifar10": DATA / "datasets/cifar10_jpeg", "mnist": DATA / "datasets/mnist_png"}
NETS = ("repvgg", "rep-resnet", "rep-googlenet")
SMALL_YARD_SCENES, YARD_SCENES = 4, 25
_RECIPE = replace(recipe_for("x86-vnni"), quantize_bias=False)
"""8 bits everywhere; the 32 bits of biases change nothing and are left out."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Net:
    """One network in all its strategies, what it is calibrated on, and how it is scored."""

    name: str
    folded: Callable[[FusionStrategy], LoadedModel]
    frames: Sequence[dict[str, Array]]
    answers: Callable[[Session], Answers]
    drop: Callable[[Answers, Answers], AccuracyDrop]


def integers(
    model: LoadedModel, frames: Sequence[dict[str, Array]], *, per_channel: bool
) -> tuple[onnx.ModelProto, Callable[[onnx.ModelProto], onnx.ModelProto]]:
    """``model`` in 8 bits as it is, and a function that does the same with other biases."""
    selection = select_operators(model)
    kinds = {one.op_type for one in model.proto.graph.node if one.name in set(selection.integer)}
    ranges = ranges_of(model.proto, kinds, frames, "minmax")
    recipe = replace(_RECIPE, weights_per_channel=per_channel)

    def again(proto: onnx.ModelProto) -> onnx.ModelProto:
        return quantized(proto, selection.integer, ranges, recipe)

    return again(model.proto), again


def simulated(
    proto: onnx.ModelProto, floats: onnx.ModelProto, weight_bits: int, activation_bits: int,
    *, per_channel: bool,
) -> onnx.ModelProto:  # fmt: skip
    """The 8-bit graph ``proto`` of the float graph ``floats``, narrowed."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    values = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in floats.graph.initializer}
    read = {node.name: weights.get(node.input[1]) for node in floats.graph.node if node.input[1:]}
    readers = {name: node.name for node in proto.graph.node for name in node.input}
    nodes: list[onnx.NodeProto] = []
    changed: dict[str, Array] = {}
    for node in result.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            weight = read[readers[node.output[0]]]
            assert weight is not None
            changed[node.output[0]] = rounded(weight, weight_bits, per_channel=per_channel)
            continue
        if node.op_type == "QuantizeLinear" and activation_bits < 8:
            changed |= window(node, values, activation_bits)
            whole = node.input[0]
            node.input[0] = f"{node.name}.window"
            limits = [f"{node.name}.low", f"{node.name}.high"]
            nodes.append(helper.make_node("Clip", [whole, *limits], [node.input[0]]))
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    kept = [one for one in result.graph.initializer if one.name not in changed]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    result.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in changed.items()
    )
    return sorted_and_read(result)


def rounded(weight: Array, bits: int, *, per_channel: bool) -> Array:
    """``weight`` (O, ...) to symmetric integers of ``bits`` and back."""
    most = 2 ** (bits - 1) - 1
    spans = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    if not per_channel:
        spans = np.full_like(spans, spans.max())
    scale = np.where(spans > 0, spans / most, 1).reshape(-1, *(1,) * (weight.ndim - 1))
    return np.asarray(np.rint(weight / scale) * scale, np.float32)


def window(node: onnx.NodeProto, values: dict[str, Array], bits: int) -> dict[str, Array]:
    """Scale, zero point and limits of a QuantizeLinear that uses ``bits`` of its 8."""
    share = 255 / (2**bits - 1)
    scale = np.asarray(values[node.input[1]] * share, np.float32)
    zero = np.asarray(np.rint(values[node.input[2]] / share), np.uint8)
    low, high = (np.asarray((k - float(zero)) * scale, np.float32) for k in (0, 2**bits - 1))
    return {
        node.input[1]: scale, node.input[2]: zero,
        f"{node.name}.low": low, f"{node.name}.high": high,
    }  # fmt: skip


def sorted_and_read(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Operators in topological order, without constants that nothing reads."""
    known = {one.name for one in (*proto.graph.initializer, *proto.graph.input)} | {""}
    waiting, done = list(proto.graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ValueError(f"{waiting[0].input[0]} is made by nothing")
        for node in ready:
            known.update(node.output)
        done += ready
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(done)
    return remove_unread(proto)


def session_of(proto: onnx.ModelProto) -> OrtSession:
    """Operator by operator as written: at higher levels the runtime drops some of the rounding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(to_bytes(proto))
        return OrtSession(path, optimization="none")


def classifier(name: str, cache: Path, picture_count: int) -> Net:
    """A network of samples/classify on pictures of its own test set."""
    images = load_image_set(SETS[name.partition("-")[0]], cache)
    spread = np.linspace(0, len(images.test) - 1, min(picture_count, len(images.test))).astype(int)
    test = LabelledImages(pixels=images.test.pixels[spread], labels=images.test.labels[spread])
    trained = load_checkpoint(SAMPLES / f"{name}.pt")
    shape = (BATCH, *images.image_shape)

    def folded(strategy: FusionStrategy) -> LoadedModel:
        data = export_module(fold_module(trained, strategy=strategy), shape, fold=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(data)
            return load_model(path)

    def answers(session: Session) -> Answers:
        given, made = session.inputs[0].name, session.outputs[0].name
        found = evaluate(
            lambda inputs: session.run({given: inputs})[made], test, batch_image_count=BATCH
        )
        return (found.predictions == found.labels).tolist()

    count = BATCH * CALIBRATION_BATCHES
    chosen = np.linspace(0, len(images.train) - 1, count).astype(int)
    pixels = torch.from_numpy(images.train.pixels[chosen])
    batches = to_input(pixels).contiguous().numpy().reshape(CALIBRATION_BATCHES, *shape)
    given = folded(S3).inputs[0].name
    return Net(
        name=name, folded=folded, frames=[{given: one} for one in batches], answers=answers,
        drop=class_drop,
    )  # fmt: skip


def yard(scene_count: int) -> Net:
    """The detector of samples/yard by its small helmets."""
    subject: Subject = yard_detector("yard", scene_count)
    frames = [{subject.loaded.inputs[0].name: one} for one in subject.frames.tensors]
    return Net(
        name="yard",
        folded=lambda strategy: float_model(subject.loaded, [FusionRule(strategy=strategy)]),
        frames=frames[::3],
        answers=subject.scorer.answers,
        drop=subject.scorer.drop,
    )


def strategy_rows(net: Net, bits: Sequence[tuple[int, int]]) -> Iterator[Row]:
    """Every strategy at every width, each beside fp32 and beside S3 (the first) of its width."""
    fp32: Answers | None = None
    whole: dict[tuple[int, int, bool], Answers] = {}
    for strategy in STRATEGIES:
        model = net.folded(strategy)
        fp32 = fp32 or net.answers(session_of(model.proto))
        for per_channel in (True, False):
            proto, _ = integers(model, net.frames, per_channel=per_channel)
            for weight_bits, activation_bits in bits:
                narrow = simulated(
                    proto, model.proto, weight_bits, activation_bits, per_channel=per_channel
                )
                answers = net.answers(session_of(narrow))
                first = whole.setdefault((weight_bits, activation_bits, per_channel), answers)
                yield {
                    "net": net.name, "strategy": str(strategy),
                    "bits": f"W{weight_bits}A{activation_bits}", "per_channel": per_channel,
                    "drop": asdict(net.drop(fp32, answers)),
                    "gap": asdict(net.drop(first, answers)),
                }  # fmt: skip


def fix_rows(net: Net) -> Iterator[Row]:
    """S3 at W8A8: what each fix is worth."""
    model = net.folded(S3)
    fp32 = net.answers(session_of(model.proto))
    even, changed_count = equalized(model, select_operators(model).integer)
    for per_channel in (False, True):
        for is_even in (False, True) if changed_count else (False,):
            form = even if is_even else model
            proto, again = integers(form, net.frames, per_channel=per_channel)
            weights = dequantized_weights(proto)
            corrected = again(correct_biases(form.proto, weights, net.frames))
            for is_corrected, one in ((False, proto), (True, corrected)):
                answers = net.answers(session_of(one))
                yield {
                    "net": net.name, "per_channel": per_channel, "equalized": is_even,
                    "bias_corrected": is_corrected, "drop": asdict(net.drop(fp32, answers)),
                }  # fmt: skip


def print_strategy_row(row: Row) -> None:
    """One strategy at one width."""
    drop, gap = AccuracyDrop(**row["drop"]), AccuracyDrop(**row["gap"])
    said = ""
    if row["strategy"] != str(S3):
        verdict = "worse" if gap.drop_pp > 0 else "better"
        if gap.low_pp <= 0 <= gap.high_pp:
            verdict = "no difference"
        said = (
            f"  against S3 {-gap.drop_pp:+6.2f} pp ({-gap.high_pp:+.2f} to {-gap.low_pp:+.2f}) "
            f"{verdict}"
        )
    print(
        f"    {row['bits']} {_grain(row):11} {row['strategy']:8} {drop.after:.4f}  drop "
        f"{drop.drop_pp:6.2f} pp ({drop.low_pp:.2f} to {drop.high_pp:.2f}){said}",
        flush=True,
    )


def print_fix_row(row: Row) -> None:
    """One combination of fixes."""
    drop = AccuracyDrop(**row["drop"])
    fixes = [word for word in ("equalized", "bias_corrected") if row[word]]
    print(
        f"    W8A8 {_grain(row):11} {'+'.join(fixes) or 'plain':24} {drop.after:.4f}  drop "
        f"{drop.drop_pp:6.2f} pp ({drop.low_pp:.2f} to {drop.high_pp:.2f})",
        flush=True,
    )


def _grain(row: Row) -> str:
    return "per channel" if row["per_channel"] else "per tensor"


def result_line(parts: dict[str, list[Row]]) -> str:
    """The largest significant gap between strategies at each width, and the fixes' worst drops."""
    words = []
    strategies = [
        row for key, rows in parts.items() if key.startswith("strategies") for row in rows
    ]
    for bits in dict.fromkeys(row["bits"] for row in strategies):
        for per_channel in (True, False):
            gaps = [
                abs(row["gap"]["drop_pp"])
                for row in strategies
                if row["bits"] == bits
                and row["per_channel"] == per_channel
                and not row["gap"]["low_pp"] <= 0 <= row["gap"]["high_pp"]
            ]
            grain = "channel" if per_channel else "tensor"
            words.append(f"{bits.lower()}_{grain}_max_gap_pp={max(gaps, default=0.0):.2f}")
    fixes = [row for key, rows in parts.items() if key.startswith("fixes") for row in rows]
    for name, is_fixed, per_channel in (
        ("plain_tensor", False, False),
        ("fixed_channel", True, True),
    ):
        drops = [
            row["drop"]["drop_pp"]
            for row in fixes
            if row["per_channel"] == per_channel
            and row["bias_corrected"] == is_fixed
            and (row["equalized"] == is_fixed or is_fixed)
        ]
        if drops:
            words.append(f"{name}_worst_drop_pp={max(drops):.2f}")
    return "RESULT " + " ".join(words)


def jobs(part: str | None, cache: Path, *, quick: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name of each table, and how its rows are made."""
    count = 1000 if quick else 10_000
    bits = BITS[:2] if quick else BITS
    if part != "fixes":
        name = "cifar10-repvgg"
        yield f"strategies {name}", lambda: strategy_rows(classifier(name, cache, count), bits)
        scenes = SMALL_YARD_SCENES if quick else YARD_SCENES
        yield "strategies yard", lambda: strategy_rows(yard(scenes), bits)
    if part != "strategies":
        for name in [f"{data}-{net}" for data in SETS for net in NETS][: 1 if quick else None]:
            yield f"fixes {name}", lambda name=name: fix_rows(classifier(name, cache, count))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures, two widths")
    parser.add_argument("--part", choices=("strategies", "fixes"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep rows, go on behind them")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"needs the real pictures in {DATA}")
    torch.set_num_threads(1)
    kept = arguments.json
    parts: dict[str, list[Row]] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for title, rows in jobs(arguments.part, Path(folder), quick=arguments.quick):
            started_s = time.perf_counter()
            print(title, flush=True)
            show = print_fix_row if title.startswith("fixes") else print_strategy_row
            made = []
            for row in parts.get(title) or rows():
                show(row)
                made.append(row)
            if kept and title not in parts:
                kept.write_text(json.dumps(parts | {title: made}, indent=2) + "\n")
            parts[title] = made
            print(f"    {time.perf_counter() - started_s:.0f} s", flush=True)
    print(result_line(parts))


if __name__ == "__main__":
    main()
