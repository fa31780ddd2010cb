"""A model seen as a DAG of operators with work and traffic.

Made by ``builder.workload`` from an ONNX graph; the planner needs nothing else of the model.
"""

from functools import cached_property

from edgekit.spec.base import Spec
from edgekit.spec.tensors import TensorSpec


class KernelShape(Spec, frozen=True, kw_only=True):
    """What the time of an operator depends on besides work and traffic.

    ``key`` is operator and attributes without sizes, such as "Conv 3x3 s2 d1 dense"; ``sizes`` are
    the numbers that vary under that key, in the order that ``builder.kernel_shapes`` fixes.
    """

    key: str
    sizes: tuple[int, ...]

    @property
    def op_type(self) -> str:
        """The first word of the key."""
        return self.key.split(" ", 1)[0]


class OpCost(Spec, frozen=True, kw_only=True):
    """One operator: what it reads and writes, and what that costs.

    ``inputs`` and ``outputs`` are activations only: weights and constants are counted in
    ``weight_bytes`` and belong to whichever shard runs the operator.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    work_flop: int
    """Arithmetic; 1 multiply-add = 2 flop, integer operations alike."""
    traffic_bytes: int
    """Weights + inputs + outputs of this operator alone, before any fusion with its neighbours."""
    weight_bytes: int
    parameter_count: int
    kernel: KernelShape | None = None
    """None where the workload was made by hand: then only the roofline can price it."""
    dequantized: tuple[TensorSpec, ...] = ()
    """Weights stored as integers that a DequantizeLinear of their own makes floats of."""
    twin: str = ""
    """Name of an earlier operator that computes the same, as far as the inputs are the same."""


class Workload(Spec, frozen=True, kw_only=True, dict=True):
    """The whole model: operators in topological order, and the shape of every activation."""

    model: str
    model_sha256: str
    ops: tuple[OpCost, ...]
    tensors: tuple[TensorSpec, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int = 17
    """Of the model's file: some rewritings of a runtime need a newer one."""

    @cached_property
    def tensor(self) -> dict[str, TensorSpec]:
        """Every activation by name."""
        return {spec.name: spec for spec in self.tensors}

    @property
    def work_flop(self) -> int:
        """Arithmetic of one frame."""
        return sum(op.work_flop for op in self.ops)

    @property
    def traffic_bytes(self) -> int:
        """Memory traffic of one frame, operators taken one by one."""
        return sum(op.traffic_bytes for op in self.ops)

    @property
    def parameter_count(self) -> int:
        """Trained numbers in the model."""
        return sum(op.parameter_count for op in self.ops)

    @property
    def intensity_flop_per_byte(self) -> float:
        """Operational intensity: work / traffic (Williams et al., CACM 2009)."""
        return self.work_flop / self.traffic_bytes if self.traffic_bytes else 0.0
