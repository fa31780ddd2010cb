"""Describe one ONNX operator by what its time depends on: the key and sizes of a profiler's table.

In: a node with the shapes of its inputs and outputs.  Out: a KernelShape.  Pure.
An operator without a rule of its own is described by the larger of what it reads and writes.

Sizes by key: Conv, ConvTranspose, QLinearConv (channels in, channels out, output height, output
width, groups); pools and Resize (channels, output height, output width), global pools the input's;
Gemm, MatMul (batch, rows, inner, columns); elementwise operators (channels, elements a channel);
Concat, Split, Slice, Gather (elements written, elements of one contiguous run of the joint tensor,
tensors joined or made); Transpose (input dimensions); Softmax (rows, columns); Reduce (elements
written, elements read for each); all others as elementwise.
"""

import math
from collections.abc import Callable, Set

from edgekit.builder.op_costs import NodeShapes
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape

_BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu", "Sum", "QLinearAdd",
           "QLinearMul", "Equal", "Greater", "Less", "And", "Or", "Where", "Mod"}  # fmt: skip
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}


def kernel_of(shapes: NodeShapes, constants: Set[str]) -> KernelShape:
    """Key and sizes of one node; ``constants`` are the names of its inputs that are weights."""
    kind = shapes.node.op_type
    rule = _RULES.get(kind)
    found = rule(shapes) if rule is not None else None
    if found is not None:
        return found
    if kind in _BINARY:
        return _binary(shapes, constants)
    if kind in _VIEWS:
        return KernelShape(key=f"View {kind}", sizes=(shapes.out_count,))
    larger = shapes.inputs[0]
    if larger is None or larger.element_count <= shapes.out_count:
        larger = shapes.outputs[0]
    if kind.startswith("Reduce"):
        return KernelShape(
            key=kind, sizes=(shapes.out_count, max(1, larger.element_count // shapes.out_count))
        )
    return KernelShape(key=kind, sizes=_planes(larger))


def _planes(spec: TensorSpec) -> tuple[int, int]:
    """(channels, elements per channel) of an image of batch 1, else (1, elements)."""
    if len(spec.shape) == 4 and spec.shape[0] == 1:
        return spec.shape[1], math.prod(spec.shape[2:])
    return 1, spec.element_count


def _window(shapes: NodeShapes, kernel: tuple[int, ...]) -> str:
    """Such as "3x3 s2 d1"."""
    strides = tuple(shapes.attribute("strides", (1,) * len(kernel)))
    dilations = tuple(shapes.attribute("dilations", (1,) * len(kernel)))
    return f"{_times(kernel)} s{_short(strides)} d{_short(dilations)}"


def _times(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def _short(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else _times(numbers)


def _convolution(weight_index: int) -> Callable[[NodeShapes], KernelShape | None]:
    def rule(shapes: NodeShapes) -> KernelShape | None:
        weight, out = shapes.shape(weight_index), shapes.outputs[0].shape
        if len(out) != 4 or out[0] != 1:
            return None
        groups = int(shapes.attribute("group", 1))
        channels_in = shapes.shape(0)[1]
        is_depthwise = groups > 1 and groups == channels_in == out[1]
        kind = "dense" if groups == 1 else "depthwise" if is_depthwise else "grouped"
        spec = shapes.inputs[weight_index]
        if spec is not None and spec.dtype == "uint8":
            # Products of two unsigned bytes take another path than those of signed weights.
            kind += " u8"
        return KernelShape(
            key=f"{shapes.node.op_type} {_window(shapes, weight[2:])} {kind}",
            sizes=(channels_in, *out[1:], groups),
        )

    return rule


def _pool(shapes: NodeShapes) -> KernelShape | None:
    out = shapes.outputs[0].shape
    if len(out) != 4 or out[0] != 1:
        return None
    kernel = tuple(shapes.attribute("kernel_shape", (1, 1)))
    return KernelShape(key=f"{shapes.node.op_type} {_window(shapes, kernel)}", sizes=out[1:])


def _global_pool(shapes: NodeShapes) -> KernelShape | None:
    shape = shapes.shape(0)
    is_image = len(shape) == 4 and shape[0] == 1
    return KernelShape(key=shapes.node.op_type, sizes=shape[1:]) if is_image else None


def _gemm(shapes: NodeShapes) -> KernelShape:
    left, out = shapes.shape(0), shapes.outputs[0].shape
    inner = left[0] if shapes.attribute("transA", 0) else left[-1]
    return KernelShape(key=shapes.node.op_type, sizes=(1, out[0], inner, out[1]))


def _matmul(shapes: NodeShapes) -> KernelShape:
    """A constant right side of two dimensions makes one product of all rows."""
    out, inner = shapes.outputs[0].shape, shapes.shape(0)[-1]
    index = 3 if shapes.node.op_type == "QLinearMatMul" else 1
    columns = out[-1] if len(shapes.shape(index)) > 1 else 1
    rows = shapes.out_count // columns
    batch = math.prod(out[:-2]) if len(shapes.shape(index)) > 2 else 1
    return KernelShape(
        key=shapes.node.op_type, sizes=(batch, rows // max(1, batch), inner, columns)
    )


def _resize(shapes: NodeShapes) -> KernelShape | None:
    out = shapes.outputs[0].shape
    if len(out) != 4 or out[0] != 1:
        return None
    mode = shapes.attribute("mode", "nearest")
    how = shapes.attribute("coordinate_transformation_mode", "half_pixel")
    key = f"Resize {mode} {how}"
    if mode == "nearest":
        key += f" {shapes.attribute('nearest_mode', 'round_prefer_floor')}"
    before = shapes.shape(0)
    factors = tuple(after / one for after, one in zip(out[2:], before[2:], strict=True))
    return KernelShape(key=f"{key} x{'x'.join(f'{f:.3g}' for f in factors)}", sizes=out[1:])


def _moved(shapes: NodeShapes) -> KernelShape:
    """Concat, Split, Slice, Gather: copies of runs along the axis."""
    kind = shapes.node.op_type
    written, read = shapes.outputs[0], shapes.inputs[0] or shapes.outputs[0]
    count = sum(spec.element_count for spec in shapes.outputs)
    if kind in ("Concat", "Split"):
        whole = written if kind == "Concat" else read
        parts = len(shapes.node.input) if kind == "Concat" else len(shapes.outputs)
        axis = int(shapes.attribute("axis", 0)) % max(1, len(whole.shape))
        key = f"Concat axis{axis}" if kind == "Concat" else kind
        return KernelShape(key=key, sizes=(count, max(1, math.prod(whole.shape[axis:])), parts))
    axis = _first_difference(written.shape, read.shape)
    run = math.prod(written.shape[axis:])
    if kind == "Slice" and len(written.shape) == 4 and axis == 3:
        # Images are sliced along rows to take every other pixel.
        kind = "Slice stepped"
    return KernelShape(key=kind, sizes=(count, max(1, run), 1))


def _integer_concat(shapes: NodeShapes) -> KernelShape:
    """Scale and zero point of the result, then tensor, scale and zero point of each part."""
    whole = shapes.outputs[0]
    axis = int(shapes.attribute("axis", 0)) % max(1, len(whole.shape))
    sizes = (whole.element_count, math.prod(whole.shape[axis:]), len(shapes.node.input) // 3)
    return KernelShape(key=f"QLinearConcat axis{axis}", sizes=sizes)


def _integer_pool(shapes: NodeShapes) -> KernelShape | None:
    found = None if shapes.attribute("channels_last", 0) else _pool(shapes)
    return found and KernelShape(key=f"{found.key} plain", sizes=found.sizes)


def _first_difference(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((axis for axis, (a, b) in enumerate(pairs) if a != b), 0)


def _transpose(shapes: NodeShapes) -> KernelShape:
    shape = shapes.shape(0)
    order = tuple(shapes.attribute("perm", tuple(reversed(range(len(shape))))))
    return KernelShape(key=f"Transpose {''.join(map(str, order))}", sizes=shape or (1,))


def _softmax(shapes: NodeShapes) -> KernelShape:
    shape = shapes.shape(0)
    columns = shape[int(shapes.attribute("axis", -1))] if shape else 1
    return KernelShape(
        key=shapes.node.op_type, sizes=(shapes.out_count // max(1, columns), columns)
    )


def _binary(shapes: NodeShapes, constants: Set[str]) -> KernelShape:
    """How the operands meet decides the loop: same, scalar, channel or any other broadcast."""
    specs = [spec for spec in shapes.inputs if spec is not None]
    out = shapes.outputs[0]
    if shapes.node.op_type in ("QLinearAdd", "QLinearMul"):
        # Scales and zero points are scalars between the operands, and always constant.
        specs = [spec for spec in specs if spec.element_count > 1]
        constants = frozenset()
    others = [spec for spec in specs if spec.shape != out.shape]
    kind = "broadcast"
    if not others:
        kind = "constant" if constants & set(shapes.node.input) else "same"
    elif all(spec.element_count == 1 for spec in others):
        kind = "scalar"
    elif all(spec.element_count == _planes(out)[0] for spec in others):
        kind = "channel"
    return KernelShape(key=f"{shapes.node.op_type} {kind}", sizes=_planes(out))


_RULES: dict[str, Callable[[NodeShapes], KernelShape | None]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvTranspose": _convolution(1),
    "QLinearConv": _convolution(3),
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "QLinearMatMul": _matmul,
    "Resize": _resize,
    "Upsample": _resize,
    "Concat": _moved,
    "Split": _moved,
    "Slice": _moved,
    "Gather": _moved,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "QLinearSoftmax": _softmax,
    "QLinearAveragePool": _integer_pool,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearConcat": _integer_concat,
    "QGemm": _gemm,
}
