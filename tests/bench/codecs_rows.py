"""What the codec bench measures on one cut: a row of its table, and integers of int8 shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from edgekit.builder.probe import to_bytes
from edgekit.builder.split import split_model
from edgekit.bundle.chain import advance
from edgekit.runtime.ort import OrtSession
from edgekit.spec.agent_config import Optimization
from edgekit.spec.codec import parse_codec
from edgekit.spec.messages import Detection
from edgekit.spec.plan import Cut
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import calibrate, steps
from edgekit.transport.codecs.cost import Measurement, measure_codec
from tests.bench.codecs_world import Detector

MBITS = (10, 100, 1000)


@dataclass
class Rival:
    """A picture of no more bytes than a codec takes: the one of the highest quality."""

    quality: int
    agree_percent: float


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
    rivals: dict[str, Rival] = field(default_factory=dict)
    """By kind of picture; none that would be larger, and none beside a codec that loses nothing."""

    def loses_to(self, kind: str) -> bool:
        """Whether a picture of that kind and no more bytes agrees at least as well."""
        rival = self.rivals.get(kind)
        return rival is not None and rival.agree_percent >= self.agree_percent


def total_ms(encode_s: float, nbytes: float, decode_s: float) -> dict[int, float]:
    """Milliseconds at each bandwidth."""
    return {
        mbit: round(1e3 * (encode_s + nbytes / (mbit * 1e6 / 8) + decode_s), 3) for mbit in MBITS
    }


class CutModel:
    """A detector cut in two, as files."""

    def __init__(self, detector: Detector, cut: Cut, folder: Path) -> None:
        self.detector, self.cut, self.folder = detector, cut, folder
        self.protos = split_model(detector.loaded, detector.workload, [cut])
        self.head, self.tail = (self.session(proto) for proto in self.protos)
        self.outputs = detector.loaded.parts.output_names

    def session(
        self, proto: onnx.ModelProto, optimization: Optimization = "extended"
    ) -> OrtSession:
        """A shard, ready to run."""
        path = self.folder / "shard.onnx"
        path.write_bytes(to_bytes(proto))
        return OrtSession(path, optimization=optimization)

    def given(self, image: Array) -> dict[str, Array]:
        """Inputs of the first shard."""
        return {self.detector.input.name: self.detector.tensor(image)}

    def activations(self, images: Sequence[Array]) -> list[dict[str, Array]]:
        """What crosses the cut."""
        return [advance(self.head, self.given(image), self.cut.names) for image in images]

    def found(self, tail: OrtSession, taken: Mapping[str, Array]) -> tuple[Detection, ...]:
        """What the rest of the model makes of what arrived."""
        return self.detector.detections(advance(tail, taken, self.outputs))


def integer_costs(
    calibration: Sequence[Mapping[str, Array]], frames: Sequence[Mapping[str, Array]]
) -> dict[str, Measurement]:
    """The cut as the integers of int8 shards, sent as they are, by name of the codec.

    In 256 steps of a calibrated range for each tensor, as QuantizeLinear makes them.
    """
    ranges = calibrate(parse_codec("uint8"), calibration)
    integers = [
        {
            one.name: steps.quantize(frame[one.name], None, steps.calibrated(one))
            for one in ranges.ranges
        }
        for frame in frames
    ]
    names = ("fp32", "fp32+lz4", "fp32+zstd")
    return {name: measure_codec(parse_codec(name), integers) for name in names}
