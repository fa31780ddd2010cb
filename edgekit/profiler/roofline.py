"""Put a model on the roofline of a device: which roof binds each kernel, and how fast it may run.

In: a Workload, a DeviceProfile and one of its ceilings.  Out: one Dot per kernel group.  Pure.
A roofline is what the hardware allows, not a prediction: real kernels are slower, and only one
whose tensors still lie in a cache can beat the memory roof.
Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import ConfigError
from edgekit.spec.profile import Ceiling, DeviceProfile, Precision
from edgekit.spec.workload import OpCost, Workload

_WIDTH_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "QGemm")
_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One kernel group of a model: what it computes and moves, and how long the roofs allow."""

    name: str
    kind: str
    """Of the operator that does most of the group's work: its type; of convolutions, which."""
    work_flop: int
    traffic_bytes: float
    roofline_s: float
    """The time under the roof that binds, and one launch."""
    is_memory_bound: bool

    @property
    def intensity_flop_per_byte(self) -> float:
        """Operational intensity; infinite for a group that moves nothing."""
        return self.work_flop / self.traffic_bytes if self.traffic_bytes else float("inf")

    @property
    def flop_per_s(self) -> float:
        """Attainable arithmetic per second."""
        return self.work_flop / self.roofline_s if self.roofline_s else 0.0


def model_precision(workload: Workload) -> Precision:
    """The precision that the model was saved in."""
    if any(op.op_type.startswith("QLinear") or op.op_type in _QUANTIZED for op in workload.ops):
        return "int8"
    dtypes = {spec.dtype for spec in workload.tensors}
    return "fp16" if "float16" in dtypes and "float32" not in dtypes else "fp32"


def choose_ceiling(
    profile: DeviceProfile,
    *,
    precision: Precision | None = None,
    provider: str | None = None,
    preferred: Precision = "fp32",
) -> Ceiling:
    """The ceiling asked for; what is left open goes to the CPU and to the ``preferred`` precision.

    Raises: ConfigError listing the ceilings that the profile has.
    """
    named = [one for one in profile.ceiling if provider in (None, one.provider)]
    if provider and not named:
        roofs = (profile.roof(width, provider) for width in _WIDTH_BYTES)
        named = [roof for roof in roofs if roof is not None]
    fitting = [one for one in named if precision in (None, one.precision)]
    if not fitting:
        known = ", ".join(f"{one.precision} on {one.provider}" for one in profile.ceiling)
        asked = " on ".join(filter(None, (precision, provider)))
        raise ConfigError(
            f"profile {profile.name} has no ceiling for {asked}", hint=f"choose from: {known}"
        )
    wished = (preferred, "fp32")
    return min(
        fitting,
        key=lambda one: (one.provider != "cpu", *(one.precision != wish for wish in wished)),
    )


def dots_of(
    workload: Workload,
    profile: DeviceProfile,
    ceiling: Ceiling,
    *,
    inner: frozenset[str] = frozenset(),
) -> tuple[Dot, ...]:
    """One dot per kernel group, in the order of the model.

    ``inner`` names the tensors that stay inside a kernel and so cost no traffic
    (``planner.kernel_groups.inner_names``); without it every operator is its own kernel.
    Traffic is scaled to the width of the ceiling's precision where that is the narrower one.
    Operators that only rename a tensor's shape move nothing in any runtime and have no dot.
    """
    profile = profile.seen_by(ceiling.provider, ceiling.precision)
    model_width = _WIDTH_BYTES[model_precision(workload)]
    narrowing = min(1.0, _WIDTH_BYTES[ceiling.precision] / model_width)
    dots = []
    for group in _groups(workload, inner):
        if all(op.op_type in _VIEWS for op in group):
            continue
        work_flop = sum(op.work_flop for op in group)
        traffic_bytes = narrowing * (
            sum(op.traffic_bytes for op in group) - _hidden(workload, group, inner)
        )
        compute_s = work_flop / ceiling.flop_per_s
        memory_s = traffic_bytes / profile.memory_bytes_per_s
        main = max(group, key=lambda op: op.work_flop)
        dots.append(
            Dot(
                name=main.name or main.outputs[0],
                kind=_kind(main, workload),
                work_flop=work_flop,
                traffic_bytes=traffic_bytes,
                roofline_s=max(compute_s, memory_s) + profile.launch_overhead_s,
                is_memory_bound=memory_s > compute_s,
            )
        )
    return tuple(dots)


def _kind(op: OpCost, workload: Workload) -> str:
    """The operator's type; a convolution by how many inputs one output adds up.

    As many as there are channels: 1x1. Fewer: depthwise, or in many groups. More: a larger kernel.
    """
    if "Conv" not in op.op_type or "Transpose" in op.op_type:
        return op.op_type
    shapes = [workload.tensor[name].shape for name in (*op.inputs[:1], *op.outputs[:1])]
    if len(shapes) != 2 or len(shapes[0]) < 3 or 0 in shapes[1]:
        return op.op_type
    added_count = op.work_flop / 2 // math.prod(shapes[1])
    channel_count = shapes[0][1]
    if added_count == channel_count:
        return f"{op.op_type} 1x1"
    return f"{op.op_type} depthwise" if added_count < channel_count else f"{op.op_type} kxk"


def _groups(workload: Workload, inner: frozenset[str]) -> list[list[OpCost]]:
    """Operators that one kernel runs: those that inner tensors join, however many in a row."""
    group_of: dict[str, int] = {}
    """Group of each inner tensor; a group is called after its first operator."""
    joined: dict[int, int] = {}
    for index, op in enumerate(workload.ops):
        found = {_root(joined, group_of[name]) for name in op.inputs if name in group_of}
        root = min(found, default=index)
        joined |= dict.fromkeys(found - {root}, root)
        joined[index] = root
        group_of |= {name: root for name in op.outputs if name in inner}
    groups: dict[int, list[OpCost]] = defaultdict(list)
    for index, op in enumerate(workload.ops):
        groups[_root(joined, index)].append(op)
    return list(groups.values())


def _root(joined: dict[int, int], index: int) -> int:
    while joined.get(index, index) != index:
        index = joined[index]
    return index


def _hidden(workload: Workload, group: Sequence[OpCost], inner: frozenset[str]) -> int:
    """Bytes that the operators of a group counted, one by one, for tensors that stay inside."""
    return sum(
        workload.tensor[name].nbytes
        for op in group
        for name in (*op.inputs, *op.outputs)
        if name in inner
    )
