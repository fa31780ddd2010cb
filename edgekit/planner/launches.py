"""What a runtime really launches for some operators: fused kernels, and layout changes around them.

In:  a Workload, some of its operators, and the Habits of a runtime.  Out: Launches in order.
Pure. The habits are measured (``DeviceProfile.fused``), the rules that use them are those of ONNX
Runtime's CPU provider: convolutions of suitable channel counts run in a blocked layout (NCHWc),
operators that can, stay in it, and every other reader or writer costs a reordering copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from edgekit.planner.rewrites import rewritten
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.workload import KernelShape, OpCost, Workload

LAYOUT = "layout NCHWc"
"""How a profile writes that the runtime blocks channels, followed by the size of a block."""
ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip", "HardSwish")
_DEFAULT_FUSED = frozenset({"Conv+Relu", "Conv+Clip", "Conv+LeakyRelu", "Conv+Sigmoid"})
_CHANNEL_STEP = 4
"""Channels into a blocked convolution come in multiples of this; the last block is padded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a runtime fuses and how it lays tensors out."""

    fused: frozenset[str] = _DEFAULT_FUSED
    block: int = 0
    """Channels of one block of its own layout; 0 if it keeps tensors as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel as the runtime launches it."""

    key: str
    sizes: tuple[int, ...]
    op: int
    """Position in the workload of the operator that it belongs to; a copy out of the blocked layout
    belongs to the operator that made the tensor, one into it to the operator that reads it."""
    work_flop: int = 0
    traffic_bytes: int = 0
    epilogue: tuple[str, ...] = ()
    """What is applied to the results before they are written."""
    out_count: int = 0


def habits_of(profile: DeviceProfile) -> Habits:
    """The habits that a profile measured; a cautious guess where it measured none."""
    if not profile.fused:
        return Habits()
    layouts = [text for text in profile.fused if text.startswith(LAYOUT)]
    block = int(layouts[0].removeprefix(LAYOUT)) if layouts else 0
    return Habits(fused=frozenset(profile.fused), block=block)


def launches_of(workload: Workload, ops: Sequence[int], habits: Habits) -> tuple[Launch, ...]:
    """What running the operators ``ops`` (positions in ``workload``) as one shard launches."""
    inside = set(ops)
    leaving = set(workload.outputs)
    for position, op in enumerate(workload.ops):
        if position not in inside:
            leaving.update(op.inputs)
    chosen = rewritten(workload, ops, habits.fused, leaving)
    lowering = _Lowering(workload=workload, habits=habits, leaving=leaving)
    for _, op in chosen:
        for name in op.inputs:
            lowering.readers.setdefault(name, []).append(op)
    for position, op in chosen:
        lowering.position = position
        lowering.makers.update(dict.fromkeys(op.outputs, position))
        lowering.add(op)
    for name in lowering.makers:
        if name in leaving:
            lowering.plain(name)
    return tuple(lowering.launches)


@dataclass
class _Lowering:
    """Walks the operators in order, and remembers who made each tensor and how it lies."""

    workload: Workload
    habits: Habits
    leaving: set[str]
    position: int = 0
    """Of the operator that is being added."""
    makers: dict[str, int] = field(default_factory=dict)
    """Tensor to the position of the operator that makes it."""
    launches: list[Launch] = field(default_factory=list)
    readers: dict[str, list[OpCost]] = field(default_factory=dict)
    blocked_names: set[str] = field(default_factory=set)
    """Tensors that are made in the blocked layout."""
    both_names: set[str] = field(default_factory=set)
    """Those of them that were also copied out of it."""
    copied_names: set[str] = field(default_factory=set)
    """Tensors made plain, of which a blocked copy exists."""
    open_convolutions: dict[str, int] = field(default_factory=dict)
    """Tensor to the launch of the convolution that makes it and may still take an epilogue."""
    done: set[str] = field(default_factory=set)

    def add(self, op: OpCost) -> None:
        if op.name in self.done:
            return
        kernel = op.kernel or KernelShape(key=op.op_type, sizes=(1,))
        if kernel.op_type == "Conv" and len(kernel.sizes) == 5:
            self._convolution(op, kernel)
        elif kernel.key in _VANISHING and op.inputs:
            self._vanish(op)
        elif not (self._folds(op, kernel) or self._gate(op) or self._joins(op, kernel)):
            self._other(op, kernel)

    def _vanish(self, op: OpCost) -> None:
        """What only renames its input takes no time, and keeps its layout."""
        if self._is_blocked(op.inputs[0]):
            self.blocked_names.update(op.outputs)

    # -- layouts -----------------------------------------------------------------------------
    def plain(self, name: str) -> None:
        """Make sure ``name`` lies in the model's own layout."""
        if name in self.blocked_names and name not in self.both_names:
            self._reorder("ReorderOutput", name, self.makers.get(name, self.position))
            self.both_names.add(name)

    def _blocked(self, name: str) -> None:
        if name not in self.blocked_names and name not in self.copied_names:
            self._reorder("ReorderInput", name, self.position)
            self.copied_names.add(name)

    def _reorder(self, key: str, name: str, position: int) -> None:
        spec = self.workload.tensor[name]
        channels = spec.shape[1] if len(spec.shape) == 4 else 1
        self.launches.append(
            Launch(
                key=key,
                op=position,
                sizes=(channels, spec.element_count // max(1, channels)),
                traffic_bytes=2 * spec.nbytes,
                out_count=spec.element_count,
            )
        )

    def _is_blocked(self, *names: str) -> bool:
        return all(name in self.blocked_names for name in names)

    def _channels(self, name: str) -> int:
        shape = self.workload.tensor[name].shape
        return shape[1] if len(shape) == 4 else 1

    def _launch(self, op: OpCost, key: str, sizes: tuple[int, ...], *, blocked: bool) -> None:
        for name in op.inputs:
            (self._blocked if blocked else self.plain)(name)
        self.launches.append(
            Launch(
                key=key,
                op=self.position,
                sizes=sizes,
                work_flop=op.work_flop,
                traffic_bytes=op.traffic_bytes,
                out_count=sum(self.workload.tensor[name].element_count for name in op.outputs),
            )
        )
        if blocked:
            self.blocked_names.update(op.outputs)

    # -- operators ---------------------------------------------------------------------------
    def _convolution(self, op: OpCost, kernel: KernelShape) -> None:
        channels_in, channels_out, *_, groups = kernel.sizes
        block = self.habits.block
        is_constant = len(op.inputs) == 1 and not op.dequantized
        form = _form(channels_in, channels_out, groups, block) if is_constant else "plain"
        if form == "direct":
            self.plain(op.inputs[0])
            traffic = (*self.blocked_names,)
            self._launch(op, f"{kernel.key} direct", kernel.sizes, blocked=False)
            self.blocked_names.update((*traffic, *op.outputs))
        else:
            self._launch(op, f"{kernel.key} {form}", kernel.sizes, blocked=form == "blocked")
        self.open_convolutions[op.outputs[0]] = len(self.launches) - 1

    def _sole_reader(self, name: str) -> bool:
        return len(self.readers.get(name, [])) == 1 and name not in self.leaving

    def _folds(self, op: OpCost, kernel: KernelShape) -> bool:
        """Into the convolution before it: constants per channel, and activations."""
        if len(op.inputs) != 1 or not self._sole_reader(op.inputs[0]):
            return False
        index = self.open_convolutions.get(op.inputs[0])
        if index is None:
            return False
        epilogue = self.launches[index].epilogue
        if self.launches[index].key == "Gemm":
            if op.op_type != "Relu" or "Gemm+Relu" not in self.habits.fused or epilogue:
                return False
            self.launches[index] = replace(self.launches[index], epilogue=("Relu",))
            return True
        is_scaling = kernel.key in ("Mul channel", "Add channel") or op.op_type in _NORMS
        if is_scaling and not epilogue:
            self._pass_on(op, index)
            return True
        if f"Conv+{op.op_type}" not in self.habits.fused or epilogue not in ((), ("Add",)):
            return False
        if epilogue and f"Conv+Add+{op.op_type}" not in self.habits.fused:
            return False
        self.launches[index] = replace(self.launches[index], epilogue=(*epilogue, op.op_type))
        self._pass_on(op, index, is_open=False)
        return True

    def _pass_on(self, op: OpCost, index: int, *, is_open: bool = True) -> None:
        """What ``op`` makes is made by the launch ``index`` now."""
        if self._is_blocked(op.inputs[0]):
            self.blocked_names.add(op.outputs[0])
        if is_open:
            self.open_convolutions[op.outputs[0]] = index

    def _gate(self, op: OpCost) -> bool:
        """``x * sigmoid(x)`` as one operator, if the runtime makes it one."""
        if op.op_type != "Sigmoid" or "Sigmoid*x" not in self.habits.fused:
            return False
        source, gate = op.inputs[0], op.outputs[0]
        readers = self.readers.get(gate, [])
        if len(readers) != 1 or gate in self.leaving or readers[0].op_type != "Mul":
            return False
        product = readers[0]
        if set(product.inputs) != {source, gate}:
            return False
        kernel = product.kernel
        whole = msgspec.structs.replace(op, outputs=product.outputs)
        self._launch(
            whole, "QuickGelu", kernel.sizes if kernel else (1,), blocked=self._is_blocked(source)
        )
        self.done.add(product.name)
        return True

    def _joins(self, op: OpCost, kernel: KernelShape) -> bool:
        """An addition of two blocked tensors, one of them from a convolution that may add it."""
        is_sum = kernel.key in ("Add same", "Sum same") and len(op.inputs) == 2
        if not is_sum or "Conv+Add" not in self.habits.fused:
            return False
        if self.habits.block and not self._is_blocked(*op.inputs):
            return False
        for name in op.inputs:
            index = self.open_convolutions.get(name)
            if index is None or self.launches[index].epilogue or not self._sole_reader(name):
                continue
            self.launches[index] = replace(self.launches[index], epilogue=("Add",))
            # The sum needs its other operand first: the convolution runs here.
            self.launches.append(self.launches.pop(index))
            self._renumber(index)
            if self._is_blocked(name):
                self.blocked_names.add(op.outputs[0])
            self.open_convolutions[op.outputs[0]] = len(self.launches) - 1
            return True
        return False

    def _renumber(self, moved: int) -> None:
        last = len(self.launches) - 1
        for name, index in self.open_convolutions.items():
            if index > moved:
                self.open_convolutions[name] = index - 1
            elif index == moved:
                self.open_convolutions[name] = last

    def _other(self, op: OpCost, kernel: KernelShape) -> None:
        blocked = bool(op.inputs) and self._stays_blocked(op, kernel)
        key, sizes = kernel.key, kernel.sizes
        if (op.op_type in _NORMS and blocked) or (kernel.key == "Mul channel" and blocked):
            channels, pixels = kernel.sizes
            key, sizes = (
                "Conv 1x1 s1 d1 depthwise blocked",
                (channels, channels, 1, pixels, channels),
            )
        elif kernel.key == "Transpose 0231" and self._is_blocked(op.inputs[0]):
            # The copy out of the blocked layout writes channels last at no extra cost.
            self._reorder("ReorderOutput", op.inputs[0], self.position)
            return
        if key == "HardSwish":
            # The runtime runs it as its definition: a gate, and a product.
            self._launch(op, "HardSigmoid", sizes, blocked=blocked)
            key = "Mul same"
        self._launch(op, key, sizes, blocked=blocked)
        if key == "Gemm":
            self.open_convolutions[op.outputs[0]] = len(self.launches) - 1

    def _stays_blocked(self, op: OpCost, kernel: KernelShape) -> bool:
        block = self.habits.block
        if not block:
            return False
        kind = op.op_type
        if kind in ("MaxPool", "AveragePool"):
            return self._channels(op.inputs[0]) % block == 0
        if not self._is_blocked(*op.inputs):
            return False
        if kernel.key == "Concat axis1":
            return all(self._channels(name) % block == 0 for name in op.inputs)
        if kind == "Resize":
            return kernel.key.startswith(_BLOCKED_RESIZES)
        if kind in ACTIVATIONS or kind in _NORMS or kind == "GlobalAveragePool":
            return True
        return kernel.key in _BLOCKED_ELEMENTWISE


_VANISHING = ("View Identity", "View Dropout")
_NORMS = ("BatchNormalization",)
_BLOCKED_ELEMENTWISE = ("Add same", "Sum same", "Mul same", "Mul channel")
_BLOCKED_RESIZES = ("Resize nearest asymmetric floor", "Resize linear")


def _form(channels_in: int, channels_out: int, groups: int, block: int) -> str:
    """Whether a convolution runs blocked, reads plain and writes blocked, or stays plain."""
    if not block:
        return "plain"
    if groups == 1:
        if channels_in < block:
            return "direct"
        return "blocked" if channels_in % _CHANNEL_STEP == 0 else "plain"
    if groups == channels_in == channels_out:
        return "blocked" if channels_in % _CHANNEL_STEP == 0 else "plain"
    is_whole = channels_in // groups % block == 0 and channels_out // groups % block == 0
    return "blocked" if is_whole else "plain"
