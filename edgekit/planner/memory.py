"""Predict how much memory a shard takes on a device, at its process's worst moment and on disk.

In:  a Workload, the positions of the shard's operators, and a DeviceProfile.  Out: bytes with an
interval, over those of a process that has only loaded the runtime.  Pure.
While a session is made, each convolution's weights exist up to three times (as read, in the
blocked layout, and as the runtime's own copy), and the C library keeps what is freed; other
weights exist once, and the largest of them once more while it is packed. Later come the buffers
of the activations: in the first run each gets its own, from the second on all lie in one planned
block, so there are about twice as many bytes as are alive at once. The factors are the profile's.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgekit.errors import PlanError
from edgekit.spec.profile import DeviceProfile, SessionMemory
from edgekit.spec.workload import OpCost, Workload

ASSUMED = SessionMemory(
    base_bytes=10_000_000,
    operator_bytes=9_000,
    conv_weight_factor=3.0,
    activation_factor=2.1,
    shard_count=0,
    mape_percent=30.0,
)
"""For devices where nobody measured: ONNX Runtime 1.31 on x86-64, not trusted beyond a third."""
_LEAST_MAPE_PERCENT = 8.0
"""What made-up networks do not show: real models were off by 6.5 % on average."""
_INTERVAL = 2.06
"""Mean absolute errors on each side for nine cases in ten, errors being normal."""
_OPERATOR_FILE_BYTES = 150
"""Of an ONNX file, for the name, inputs, outputs and attributes of an operator."""
_IN_PLACE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Clip", "Exp",
             "Elu", "Erf", "Gelu", "Sqrt", "Neg", "Abs", "Softmax", "PRelu", "BatchNormalization",
             "Add", "Sub", "Mul", "Div", "Sum", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
             "Identity", "Dropout"}  # fmt: skip
"""Operators that write over an input nobody reads any more, or are part of the one before."""
_ACCUMULATOR_BYTES = 4
"""A quantized convolution sums in 32-bit integers before it rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes that one shard takes; those in memory come on top of the runtime itself."""

    rss_bytes: int
    """At the worst moment of loading and running."""
    low_bytes: int
    high_bytes: int
    weight_bytes: int
    peak_activation_bytes: int
    """Alive at once between operators, without the shard's own inputs."""
    file_bytes: int
    """Of the shard's ONNX file, weights inside."""


def predict_memory(
    workload: Workload, ops: Sequence[int], profile: DeviceProfile
) -> MemoryEstimate:
    """What the operators ``ops`` (positions in ``workload``) take as one shard on that device.

    A weight that several operators read counts for each. Raises: PlanError if ``ops`` is empty.
    """
    if not ops:
        raise PlanError("a shard without operators takes no memory", hint="choose another cut")
    known = profile.session_memory or ASSUMED
    chosen = [workload.ops[position] for position in ops]
    weight_bytes = sum(op.weight_bytes for op in chosen)
    rss_bytes = predicted_rss_bytes(workload, ops, known)
    spread = _INTERVAL * max(known.mape_percent, _LEAST_MAPE_PERCENT) / 100
    return MemoryEstimate(
        rss_bytes=rss_bytes,
        low_bytes=round(rss_bytes / (1 + spread)),
        high_bytes=round(rss_bytes * (1 + spread)),
        weight_bytes=weight_bytes,
        peak_activation_bytes=peak_activation_bytes(workload, ops),
        file_bytes=weight_bytes + _OPERATOR_FILE_BYTES * len(chosen),
    )


def predicted_rss_bytes(workload: Workload, ops: Sequence[int], known: SessionMemory) -> int:
    """The middle of the estimate, from the measured coefficients."""
    weights = weights_of([workload.ops[position] for position in ops])
    running = known.activation_factor * peak_activation_bytes(workload, ops)
    return round(
        known.base_bytes
        + known.operator_bytes * len(ops)
        + known.conv_weight_factor * weights.conv_bytes
        + weights.other_bytes
        + max(weights.largest_bytes, running + border_bytes(workload, ops))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Bytes of a shard's weights, as far as the runtime treats them differently."""

    conv_bytes: int
    other_bytes: int
    largest_bytes: int


def weights_of(ops: Sequence[OpCost]) -> Weights:
    """Weights of convolutions, of all else, and the most that one operator has."""
    conv_bytes = sum(op.weight_bytes for op in ops if op.op_type == "Conv")
    return Weights(
        conv_bytes=conv_bytes,
        other_bytes=sum(op.weight_bytes for op in ops) - conv_bytes,
        largest_bytes=max((op.weight_bytes for op in ops), default=0),
    )


def border_bytes(workload: Workload, ops: Sequence[int]) -> int:
    """Bytes of the tensors that enter and leave the shard."""
    made = {name for op in ops for name in workload.ops[op].outputs}
    read = {name for op in ops for name in workload.ops[op].inputs}
    names = (read - made) | (made & _leaving(workload, ops))
    return sum(workload.tensor[name].nbytes for name in names)


def peak_activation_bytes(workload: Workload, ops: Sequence[int]) -> int:
    """Most bytes of activations made inside the shard that are alive at once, in order of ``ops``.

    What leaves the shard is alive to the end. A quantized convolution's sums count while it runs.
    """
    buffers = _Buffers(workload=workload, leaving=_leaving(workload, ops))
    buffers.readers.update(name for position in ops for name in workload.ops[position].inputs)
    return max((buffers.run(workload.ops[position]) for position in ops), default=0)


def _leaving(workload: Workload, ops: Sequence[int]) -> set[str]:
    inside = set(ops)
    below = (op.inputs for position, op in enumerate(workload.ops) if position not in inside)
    return {*workload.outputs, *(name for names in below for name in names)}


@dataclass
class _Buffers:
    """Who still needs which buffer, operator by operator."""

    workload: Workload
    leaving: set[str]
    readers: Counter[str] = field(default_factory=Counter)
    """Readers inside the shard, by tensor."""
    buffer_of: dict[str, str] = field(default_factory=dict)
    """Tensor to the tensor that its buffer was made for."""
    pending: Counter[str] = field(default_factory=Counter)
    """Readers that a buffer still waits for; what leaves the shard waits for ever."""
    size_bytes: dict[str, int] = field(default_factory=dict)

    def run(self, op: OpCost) -> int:
        """Bytes alive while ``op`` runs; then what it was the last to read is free."""
        for name in op.outputs:
            owner = next(self._reusable(op, name), name)
            self.buffer_of[name] = owner
            self.size_bytes.setdefault(owner, self.workload.tensor[name].nbytes)
            self.pending[owner] += self.readers[name] + (name in self.leaving)
        alive_bytes = sum(self.size_bytes.values()) + self._workspace_bytes(op)
        for name in op.inputs:
            if name in self.buffer_of:
                self.pending[self.buffer_of[name]] -= 1
        for owner in {
            self.buffer_of[one] for one in (*op.inputs, *op.outputs) if one in self.buffer_of
        }:
            if self.pending[owner] == 0:
                self.size_bytes.pop(owner, None)
        return alive_bytes

    def _reusable(self, op: OpCost, name: str) -> Iterator[str]:
        """Buffers of inputs that ``op`` reads last, large enough for ``name``."""
        if op.op_type not in _IN_PLACE:
            return
        for source in op.inputs:
            owner = self.buffer_of.get(source)
            if owner is None or self.pending[owner] != 1 or source in self.leaving:
                continue
            if self.size_bytes[owner] >= self.workload.tensor[name].nbytes:
                yield owner

    def _workspace_bytes(self, op: OpCost) -> int:
        if op.op_type != "QLinearConv":
            return 0
        return sum(
            _ACCUMULATOR_BYTES * self.workload.tensor[name].element_count for name in op.outputs
        )
