"""The gate of a build: what each shard becomes, by speed and accuracy, and what is refused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekit.builder.fuse import fuse
from edgekit.builder.load import load_model
from edgekit.builder.quantize import shard_gate, shard_times
from edgekit.builder.quantize.frames import CalibrationFrames
from edgekit.builder.quantize.score import AccuracyDrop
from edgekit.builder.quantize.shard_gate import Lowered, TooInaccurateError, lower
from edgekit.builder.quantize.shard_order import ANY_DEVICE, Lowering, choose
from edgekit.builder.quantize.shard_report import ShardTimes
from edgekit.errors import ConfigError, ModelError, PlanError
from edgekit.profiler.library import load_profile
from edgekit.spec.base import to_json
from edgekit.spec.codec import parse_request
from edgekit.spec.fleet import Device, Fleet, local_fleet
from tests.builder.quantize.quantize_nets import frames, loaded_net
from tests.graphs import model, saved

GIVEN = CalibrationFrames(
    tensors=tuple(one["image"] for one in frames(16)), digests=frozenset({"seen"}), uri="memory"
)
FASTER = ShardTimes(how="measured", fp32_s=0.010, fp16_s=0.020, int8_s=0.005, is_int8_faster=True)
SLOWER = ShardTimes(how="measured", fp32_s=0.010, fp16_s=0.020, int8_s=0.012)


@dataclass
class Scripted:
    """A held-out set that answers with these drops, one after the other."""

    drops_pp: Sequence[float]
    digests: frozenset[str] = frozenset()
    asked: Iterator[float] = field(init=False)

    def __post_init__(self) -> None:
        self.asked = iter(self.drops_pp)

    def compare(self, *_: object) -> AccuracyDrop:
        drop_pp = next(self.asked)
        return AccuracyDrop(
            metric="top-1", picture_count=50, before=0.9, after=0.9 - drop_pp / 100,
            drop_pp=drop_pp, low_pp=drop_pp - 1, high_pp=drop_pp + 1,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard is twice as fast in int8, whatever this machine does."""
    monkeypatch.setattr(shard_gate, "times_of", lambda *_, **__: FASTER)


def lowered(folder: Path, fleet: Fleet | None = None, **order: object) -> Lowered:
    fleet = fleet or local_fleet(2)
    fused = fuse(loaded_net(folder), fleet, ("r0",))
    options: dict[str, object] = {"frames": GIVEN, "calibrators": ("minmax",), **order}
    return lower(fused, fleet, Lowering(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "made", "times", "chosen"),
    [
        ("auto", "int8", FASTER, "int8"),
        ("auto", "int8", SLOWER, "fp32"),
        ("auto", "int8", ShardTimes(how="unknown"), "fp32"),
        ("auto", "fp32", FASTER, "fp32"),
        ("auto", "int8", ShardTimes(
            how="measured", fp32_s=3, fp16_s=1, int8_s=2, is_int8_faster=True,
            is_fp16_faster=True, is_int8_faster_than_fp16=False), "fp16"),
        ("int8", "int8", SLOWER, "int8"),
        ("fp16", "fp16", SLOWER, "fp16"),
        ("fp32", "fp32", FASTER, "fp32"),
    ],
)  # fmt: skip
def test_a_shard_takes_what_is_faster_and_what_was_demanded(
    wanted: str, made: str, times: ShardTimes, chosen: str
) -> None:
    """An unknown speed is no gain; a demand is obeyed and its price is told."""
    precision, reasons = choose(wanted, made, times)  # type: ignore[arg-type]
    assert precision == chosen
    assert reasons


def test_the_report_says_of_every_shard_what_it_became_and_why(tmp_path: Path) -> None:
    """Speed-up, accuracy with its interval, calibrator, operators in float, bytes, memory."""
    made = lowered(
        tmp_path, precision={ANY_DEVICE: "auto"}, held_out=Scripted([0.1, 0.2, 0.4]),
        measure_bytes=lambda path: 10 * path.stat().st_size,
    )  # fmt: skip
    first, second = made.report.shards
    assert (first.device, first.precision, first.speed_up) == ("edge-a", "int8", 2.0)
    assert first.drop_alone is not None and first.drop_alone.drop_pp == 0.1
    assert (first.calibrator, first.integer_count, first.float_operators) == ("minmax", 2, ())
    assert {one.name for one in second.float_operators} == {"head", "flat", "decode"}
    assert first.memory_bytes == 10 * first.bytes
    assert first.fp32_memory_bytes == 10 * first.fp32_bytes
    assert made.report.drop is not None and made.report.drop.drop_pp == 0.4
    assert made.report.fidelity_db["logits"] > 10
    assert b"no layer behind it" in to_json(made.report)


def test_the_shard_that_loses_most_for_its_gain_goes_back(tmp_path: Path) -> None:
    """Alone 0.2 and 3 pp, together 3.1: without the second, 0.2."""
    made = lowered(
        tmp_path, precision={ANY_DEVICE: "auto"}, held_out=Scripted([0.2, 3.0, 3.1, 0.2])
    )
    assert made.chain.precisions == ("int8", "fp32")
    assert "3.10 pp" in made.report.shards[1].reasons[-1]
    assert made.report.drop is not None and made.report.drop.drop_pp == 0.2


def test_a_demanded_shard_does_not_go_back_but_the_build_is_refused(tmp_path: Path) -> None:
    """With the loss of every layer, worst first."""
    with pytest.raises(TooInaccurateError, match=r"3\.10 pp of top-1") as caught:
        lowered(tmp_path, precision={ANY_DEVICE: "int8"}, held_out=Scripted([0.2, 3.0, 3.1]))
    ratios = [one.sqnr_db for one in caught.value.losses]
    assert ratios == sorted(ratios) and len(ratios) > 3
    assert caught.value.losses[0].op in caught.value.what


def test_an_accuracy_that_is_no_number_is_not_within_the_limit(tmp_path: Path) -> None:
    with pytest.raises(TooInaccurateError):
        lowered(tmp_path, precision={"edge-a": "int8"}, held_out=Scripted([float("nan")] * 3))


def test_a_lossy_codec_is_held_to_the_limit_too(tmp_path: Path) -> None:
    """Also between shards in fp32."""
    with pytest.raises(TooInaccurateError, match=r"uint8\+lz4"):
        lowered(tmp_path, codecs=(parse_request("uint8+lz4"),), held_out=Scripted([5.0]))


def test_shards_for_devices_that_are_not_here_are_not_timed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Demanded int8 is made, and it is said that nobody knows its speed; auto does not gamble."""
    monkeypatch.undo()
    gpu = Fleet(name="x", device=(Device(name="a", provider="tensorrt"), Device(name="b")))
    made = lowered(tmp_path, gpu, precision={"a": "int8"}, race_s=0.01)
    assert made.report.shards[0].target == "tensorrt"
    assert "not known here" in made.report.shards[0].reasons[-1]
    made = lowered(tmp_path, gpu, precision={"a": "auto"}, race_s=0.01)
    assert made.chain.precisions == ("fp32", "fp32")


def test_shards_on_this_machine_are_timed_in_all_three_precisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    made = lowered(tmp_path, precision={ANY_DEVICE: "int8"}, race_s=0.01)
    for shard in made.report.shards:
        assert shard.times.how == "measured"
        assert min(shard.times.fp32_s, shard.times.fp16_s, shard.times.int8_s) > 0  # type: ignore[type-var]


def test_a_profile_with_integer_kernels_predicts_what_cannot_be_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine of a measured kind; one from a datasheet says nothing of integers."""
    monkeypatch.undo()
    monkeypatch.setattr(shard_times, "is_timed_here", lambda recipe: False)
    for name, how in (("amd-epyc-vm", "predicted"), ("raspberry-pi-4", "unknown")):
        profile = load_profile(name)
        made = lowered(tmp_path, precision={"edge-a": "int8"}, profiles={"edge-a": profile})
        times = made.report.shards[0].times
        assert times.how == how
        assert (times.speed_up("int8") is None) == (how == "unknown")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"precision": {ANY_DEVICE: "int8"}, "frames": None}, "int8 needs calibration frames"),
        ({"codecs": (parse_request("klt:0.5"),), "frames": None}, "needs calibration frames"),
        ({"codecs": (parse_request("fp16"),) * 3}, "3 codecs are given for 1 cuts"),
        ({"precision": {"nobody": "int8"}}, "device 'nobody', which gets no shard"),
        ({"precision": {ANY_DEVICE: "int8"}, "held_out": Scripted([], frozenset({"seen"}))},
         "calibration frames too"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, order: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        lowered(tmp_path, **order)


def test_what_is_quantized_already_is_not_quantized_again(tmp_path: Path) -> None:
    made = lowered(tmp_path, precision={ANY_DEVICE: "int8"})
    again = load_model(saved(made.chain.whole.proto, tmp_path / "again.onnx"))
    fused = fuse(again, local_fleet(1), "none")
    with pytest.raises(ModelError, match="quantized already"):
        lower(fused, local_fleet(1), Lowering(precision={ANY_DEVICE: "int8"}, frames=GIVEN))


def test_a_cut_between_a_convolution_and_its_norm_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    """Both are one layer in integers; as floats they may be cut apart."""
    generator = np.random.default_rng(0)
    weights = {
        "w0": generator.standard_normal((4, 3, 3, 3), np.float32),
        "w1": generator.standard_normal((4, 4, 3, 3), np.float32),
        **{name: np.ones(4, np.float32) for name in ("scale", "shift", "mean", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], name="first"),
        helper.make_node(
            "BatchNormalization", ["c0", "scale", "shift", "mean", "var"], ["n0"], name="norm"
        ),
        helper.make_node("Conv", ["n0", "w1"], ["out"], name="last"),
    ]
    proto = model(nodes, {"image": (1, 3, 32, 32)}, ["out"], weights=weights)
    loaded = load_model(saved(proto, tmp_path / "normed.onnx"))
    fused = fuse(loaded, local_fleet(2), ("c0",))
    with pytest.raises(PlanError, match="between a convolution and its BatchNorm"):
        lower(fused, local_fleet(2), Lowering(precision={ANY_DEVICE: "fp16"}))
