"""Find linear branches that meet in a concatenation with a 1x1 convolution behind it.

In:  a GraphView.  Out: blocks of kind "concat": several convolutions, each over its own tensor, a
Concat of their outputs, a 1x1 over it and its BatchNorm; all of it linear, so that the 1x1 can go
into the convolutions and the concatenation becomes a sum. What is added to it stays outside.
Source: Liu et al., "Receptive Field Block Net for Accurate and Fast Object Detection", ECCV 2018,
section 3 (the block); Ding et al., "Diverse Branch Block", CVPR 2021, transforms III and IV.
"""

from collections.abc import Set
from dataclasses import dataclass

from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.onnx_blocks import CONCAT, Block, Branch
from edgekit.builder.fold.onnx_graph import GraphView, attributes_of
from edgekit.builder.fold.onnx_linear import Obstacle, read_step
from edgekit.builder.fold.onnx_names import block_name
from edgekit.builder.fold.onnx_paths import Path, Tracer
from edgekit.errors import ModelError
from edgekit.spec.fusion import POINTWISE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConcatFind:
    """A block and the index of its last operator."""

    last: int
    block: Block


def find_concats(view: GraphView, tracer: Tracer, claimed: Set[int]) -> tuple[ConcatFind, ...]:
    """All such blocks none of whose operators is in ``claimed``, in model order."""
    found = (
        _block_at(view, tracer, index, claimed)
        for index in view.loaded.parts.activation_nodes
        if view.node(index).op_type == "Concat"
    )
    return tuple(block for block in found if block is not None)


def _block_at(view: GraphView, tracer: Tracer, index: int, claimed: Set[int]) -> ConcatFind | None:
    joined = view.node(index).output[0]
    parts = _parts(view, tracer, index)
    if parts is None or not view.is_inner(joined):
        return None
    (reader,) = view.readers[joined]
    step = read_step(view, reader)
    if isinstance(step, Obstacle) or not _is_plain_pointwise(step.layer):
        return None
    behind = tracer.extended((tracer.beginning(joined),), reader, step)
    try:
        (path,), _, output = tracer.with_what_follows(behind, view.node(reader).output[0])
        branches = _branches(view, parts, path)
    except ModelError:
        return None
    nodes = sorted({index, *path.nodes, *(one for part in parts for one in part.nodes)})
    if claimed & set(nodes) or any(part.kernel.geometry.groups > 1 for part in branches):
        return None
    block = Block(
        name=block_name(view, nodes, output),
        kind=CONCAT,
        inputs=tuple(dict.fromkeys(part.source for part in parts)),
        output=output,
        branches=branches,
        ops=tuple(view.node(one).name for one in nodes),
    )
    return ConcatFind(last=nodes[-1], block=block)


def _parts(view: GraphView, tracer: Tracer, index: int) -> list[Path] | None:
    """The linear path of each joined tensor; None unless each holds a convolution of its own."""
    node = view.node(index)
    paths = [tracer.paths(name) for name in node.input]
    along_channels = attributes_of(node).get("axis") in (1, -3)
    if not along_channels or len(paths) < 2 or len(view.shape(node.output[0])) != 4:
        return None
    if any(len(several) != 1 or not several[0].is_convolution for several in paths):
        return None
    return [path for (path,) in paths]


def _is_plain_pointwise(layer: object) -> bool:
    if not isinstance(layer, Kernel):
        return False
    geometry = layer.geometry
    return (geometry.kernel, geometry.stride, geometry.padding) == ((1, 1), (1, 1), (0, 0))


def _branches(view: GraphView, parts: list[Path], pointwise: Path) -> tuple[Branch, ...]:
    """Raises: ModelError if a part is no single convolution."""
    kernels = [part.kernel() for part in parts]
    rows = [(part, kernel, "x".join(map(str, kernel.geometry.kernel)))
            for part, kernel in zip(parts, kernels, strict=True)]  # fmt: skip
    return tuple(
        Branch(
            kind=kind,
            source=path.source,
            kernel=kernel,
            layers=path.layers,
            nodes=tuple(view.node(index).name for index in path.nodes),
        )
        for path, kernel, kind in (*rows, (pointwise, pointwise.kernel(), POINTWISE))
    )
