"""What a build ships: the shards of the fused model as they are, or lowered.

In:  a Fused and, if shards are to be lowered, what is asked of them.  Out: a Shipment: the shards
that go to the devices, and the exact ones that they are proved by.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import onnx

from edgekit.builder.fuse import Fused
from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.pieces import ShowStep
from edgekit.builder.quantize.shard_gate import lower
from edgekit.builder.quantize.shard_order import Lowering
from edgekit.builder.quantize.shard_report import LoweringReport
from edgekit.builder.split import split_model
from edgekit.builder.tensorrt_build.form import prove_form
from edgekit.builder.verify import LEVELS
from edgekit.planner.cuts import partition
from edgekit.spec.agent_config import Optimization
from edgekit.spec.codec import RAW, CodecSpec
from edgekit.spec.fleet import Fleet
from edgekit.spec.plan import Cut
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array
from edgekit.spec.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shipment:
    """Shards to be proved, and shards to be shipped: they differ where a codec is folded in, and
    where TensorRT's form of a shard is proved apart (ONNX Runtime quantizes float layers between
    two roundings, and in that form does not see them)."""

    whole: LoadedModel
    """What ``exact`` must equal, together."""
    workload: Workload
    cuts: tuple[Cut, ...]
    exact: tuple[onnx.ModelProto, ...]
    """Between ``cuts`` of ``workload``."""
    shards: tuple[onnx.ModelProto, ...]
    sent: tuple[Cut, ...]
    """What crosses between ``shards``."""
    precisions: tuple[Precision, ...] | None = None
    """None: as the operators say."""
    codecs: tuple[CodecSpec, ...] = ()
    levels: tuple[Optimization, ...] = LEVELS
    """At which they are compared."""
    noise_limits: Mapping[Optimization, float] | None = None
    """Levels at which ``exact`` may have noise beside ``whole``, and how much; elsewhere 1e-5."""
    report: LoweringReport | None = None
    sample: Mapping[str, Array] | None = None
    """A real input for self-tests: what rounding costs differs from that on random numbers."""

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Operators of each shard, by their positions in ``workload``."""
        return partition(self.workload, self.cuts)


def float_shipment(loaded: LoadedModel, fused: Fused) -> Shipment:
    """The shards of the fused model, proved by the model as it came."""
    shards = split_model(fused.model, fused.workload, fused.cuts)
    return Shipment(
        whole=loaded, workload=fused.workload, cuts=fused.cuts, exact=shards, shards=shards,
        sent=fused.cuts,
    )  # fmt: skip


def lowered_shipment(
    loaded: LoadedModel, fused: Fused, fleet: Fleet, order: Lowering, progress: ShowStep
) -> Shipment:
    """The shards that ``order`` asks for.

    At level "all" a float layer may round its last digit otherwise, split, and so tip a number over
    into the next integer. That may make no more noise than integers themselves do; at the level
    below, kernels see the same layouts whole and split, and the promise is that of floats. Not for
    fp16: where the runtime has no such kernel, it leaves out casts there and back, more of them in
    one piece than in several.
    Raises: as ``shard_gate.lower`` and ``prove_form``.
    """
    made = lower(fused, fleet, order, progress)
    chain = made.chain
    for shard, recipe in zip(chain.shards, made.recipes, strict=True):
        if not recipe.unsigned_activations:
            prove_form(shard)
    is_float = all(one == "fp32" for one in chain.precisions)
    shipped = chain.shipped
    codecs = tuple(
        msgspec.structs.replace(one, deadline_s=order.deadline_s) if one.element == "klt" else one
        for one in shipped.codecs
    )
    levels: tuple[Optimization, ...] = LEVELS if made.is_exact_here else ("none",)
    noisy: tuple[Optimization, ...] = levels if "fp16" in chain.precisions else ("all",)
    return Shipment(
        whole=loaded if is_float else chain.whole,
        workload=chain.workload,
        cuts=chain.cuts,
        exact=chain.shards,
        shards=shipped.shards,
        sent=shipped.cuts,
        precisions=chain.precisions,
        codecs=() if all(one == RAW for one in codecs) else codecs,
        levels=levels,
        noise_limits=None if is_float else dict.fromkeys(noisy, made.report.noise),
        report=made.report,
        sample={loaded.inputs[0].name: order.frames.tensors[0]} if order.frames else None,
    )
