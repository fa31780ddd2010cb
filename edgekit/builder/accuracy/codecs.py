"""What codecs cost and lose at one cut: bytes and speed on calibration data, accuracy on held-out
pictures with the codec between the two halves of the model.

In:  a float model, a cut, codecs, calibration frames.  Out: sessions to score, and costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import probe_tensors
from edgekit.builder.quantize.chain_session import ChainSession
from edgekit.builder.quantize.sizes import session_of
from edgekit.builder.split import split_model
from edgekit.bundle.chain import advance
from edgekit.errors import ConfigError
from edgekit.planner.cuts import resolve_cut
from edgekit.planner.scenario import integers_of
from edgekit.runtime.session import Session
from edgekit.spec.codec import CodecRequest, CodecSpec, parse_request
from edgekit.spec.planning import QDQ_NAME
from edgekit.spec.tensors import Array
from edgekit.spec.workload import Workload
from edgekit.transport.codecs import fit_codec, make_codec
from edgekit.transport.codecs.cost import Measurement, measure_codec

Frame = Mapping[str, Array]
DEFAULT_CODECS = (
    "fp32+zstd", "fp16", "fp16+zstd", "uint8", "uint8+zstd", "uint8-channel", "uint8-channel+zstd",
    "klt:0.5+zstd",
)  # fmt: skip
INTEGER_PACKINGS = ("lz4", "zstd")
_TIMED_FRAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutModel:
    """A model in two halves."""

    cut: str
    names: tuple[str, ...]
    halves: tuple[Session, Session]
    origin: LoadedModel
    crossing: tuple[dict[str, Array], ...]
    """What crosses on each calibration frame."""

    def codec(self, request: CodecRequest) -> CodecSpec | None:
        """With its parameters; None if it cannot code what crosses here."""
        try:
            return fit_codec(request, self.crossing)
        except ConfigError:
            return None

    def session(self, codec: CodecSpec) -> Session:
        """The whole model with ``codec`` in between."""
        outputs = tuple(spec.name for spec in self.origin.outputs)
        return ChainSession(
            self.halves, (self.names, outputs), (make_codec(codec),),
            inputs=self.origin.inputs, outputs=self.origin.outputs,
        )  # fmt: skip

    def cost(self, codec: CodecSpec) -> Measurement:
        """Bytes and times a frame."""
        return measure_codec(codec, self.crossing[:_TIMED_FRAMES])


def cut_model(
    model: LoadedModel, workload: Workload, names: Sequence[str], frames: Sequence[Frame]
) -> CutModel:
    """``model`` cut at the tensors ``names``. Raises: PlanError if that is no legal cut."""
    cut = resolve_cut(workload, names)
    first, second = (session_of(one) for one in split_model(model, workload, [cut]))
    return CutModel(
        cut=",".join(names),
        names=cut.names,
        halves=(first, second),
        origin=model,
        crossing=tuple(advance(first, dict(frame), cut.names) for frame in frames),
    )


def lossless_twin(codec: CodecRequest) -> str:
    """The name under which its accuracy is the same: packing loses nothing."""
    return codec.name.partition("+")[0]


def integer_costs(
    proto: onnx.ModelProto, names: Sequence[str], frames: Sequence[Frame]
) -> dict[str, Measurement]:
    """What the integers of a quantized graph take at a cut: as they are, and packed.

    Empty if none of the tensors ``names`` is quantized there.
    """
    made = {name for node in proto.graph.node for name in node.output}
    wanted = [integers_of(name) for name in names if integers_of(name) in made]
    if not wanted:
        return {}
    crossing = [probe_tensors(proto, dict(frame), wanted) for frame in frames[:_TIMED_FRAMES]]
    requests = {QDQ_NAME: "fp32"} | {f"{QDQ_NAME}+{one}": f"fp32+{one}" for one in INTEGER_PACKINGS}
    return {
        name: measure_codec(fit_codec(parse_request(text), crossing), crossing)
        for name, text in requests.items()
    }
