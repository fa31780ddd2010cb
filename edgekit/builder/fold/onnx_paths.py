"""The linear paths that lead to a tensor: from which tensor, through which layers.

In:  a GraphView and a tensor.  Out: paths, as far up as every operator is linear and every tensor
is read by that path alone. A sum on the way splits into one path per term, where all of them begin
at one tensor; what comes after such a sum is applied to each path, shifts and biases to the first
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from edgekit.builder.fold.algebra import BatchNorm, Kernel, fold_batch_norm, identity_kernel
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.merge import average_pool_kernel
from edgekit.builder.fold.onnx_graph import GraphView
from edgekit.builder.fold.onnx_linear import Obstacle, Pool, Step, read_step
from edgekit.builder.fold.sequence import merge_in_sequence

_MAX_DEPTH = 40
"""Linear operators in a row; no branch that anyone trains has as many."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Path:
    """Linear layers from ``source``, in order; each BatchNorm is folded into what precedes it."""

    source: str
    in_count: int
    layers: tuple[Kernel | Pool, ...] = ()
    nodes: tuple[int, ...] = ()
    work: int = 0
    """Multiply-adds of its convolutions, as they stand."""
    is_convolution: bool = False
    stop: Obstacle | None = None
    """Why the path begins at ``source`` and not above, if an operator stands in the way."""

    @property
    def has_pool(self) -> bool:
        """True if an average pool is among the layers."""
        return any(isinstance(layer, Pool) for layer in self.layers)

    def kernel(self) -> Kernel:
        """The whole path as one convolution; depthwise if it holds none.

        Raises: ModelError if no single convolution is equal.
        """
        channels, kernels = self.in_count, []
        for layer in self.layers:
            kernel = pool_kernel(layer, channels) if isinstance(layer, Pool) else layer
            kernels.append(kernel)
            channels = len(kernel.bias)
        return reduce(merge_in_sequence, kernels) if kernels else unit_kernel(self.in_count)


def pool_kernel(pool: Pool, channel_count: int) -> Kernel:
    """An average pool as a depthwise convolution."""
    return average_pool_kernel(channel_count, replace(pool.geometry, groups=channel_count))


def unit_kernel(channel_count: int) -> Kernel:
    """The identity as a depthwise 1x1 convolution."""
    return identity_kernel(channel_count, ConvGeometry.square(1, groups=channel_count))


class Tracer:
    """Follows linear paths upwards; remembers where they led."""

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self._known: dict[str, tuple[Path, ...]] = {}
        self._sums: dict[int, bool] = {}

    def paths(self, name: str) -> tuple[Path, ...]:
        """The paths to ``name``, all from one source."""
        if name not in self._known:
            self._known[name] = self._paths(name, 0)
        return self._known[name]

    def is_sum(self, index: int) -> bool:
        """True for an Add or Sum of images of one shape, nothing broadcast."""
        if index not in self._sums:
            self._sums[index] = self._adds_images(index)
        return self._sums[index]

    def _adds_images(self, index: int) -> bool:
        node = self.view.node(index)
        names = [*node.input, *node.output]
        shapes = {self.view.shape(name) for name in names}
        return (
            node.op_type in ("Add", "Sum")
            and len(node.input) > 1
            and not any(self.view.is_constant(name) for name in names)
            and len(shapes) == 1
            and len(shapes.pop()) == 4
        )

    def _paths(self, name: str, depth: int) -> tuple[Path, ...]:
        begins = self.beginning(name)
        if depth > _MAX_DEPTH or not self.view.is_inner(name):
            return (begins,)
        index = self.view.maker[name]
        if self.is_sum(index):
            terms = [
                path
                for term in self.view.node(index).input
                for path in self._paths(term, depth + 1)
            ]
            if len({path.source for path in terms}) > 1:
                return (begins,)
            return tuple(replace(path, nodes=(*path.nodes, index)) for path in terms)
        step = read_step(self.view, index)
        if isinstance(step, Obstacle):
            return (replace(begins, stop=step),)
        return self.extended(self._paths(step.input, depth + 1), index, step)

    def extended(self, paths: Sequence[Path], index: int, step: Step) -> tuple[Path, ...]:
        """``step`` after the sum of ``paths``."""
        out_shape = self.view.shape(self.view.node(index).output[0])
        return tuple(
            _then(path, step, index, out_shape, is_first=position == 0)
            for position, path in enumerate(paths)
        )

    def with_what_follows(
        self, paths: Sequence[Path], output: str
    ) -> tuple[tuple[Path, ...], list[int], str]:
        """Scales and BatchNorms that alone read the sum of ``paths``, whose tensor is ``output``.

        Returns: the paths with them, their operators, and the tensor behind the last of them.
        """
        passed: list[int] = []
        while self.view.is_inner(output):
            (reader,) = self.view.readers[output]
            step = read_step(self.view, reader)
            if isinstance(step, Obstacle) or isinstance(step.layer, Kernel | Pool):
                break
            paths = self.extended(paths, reader, step)
            passed.append(reader)
            output = self.view.node(reader).output[0]
        return tuple(paths), passed, output

    def beginning(self, name: str) -> Path:
        """The path from ``name`` to itself."""
        shape = self.view.shape(name)
        return Path(source=name, in_count=shape[1] if len(shape) == 4 else 0)


def _then(
    path: Path, step: Step, index: int, out_shape: tuple[int, ...], *, is_first: bool
) -> Path:
    nodes, layer = (*path.nodes, index), step.layer
    if layer is None:
        return replace(path, nodes=nodes)
    if isinstance(layer, BatchNorm):
        norm = layer if is_first else _without_shift(layer)
        return replace(path, nodes=nodes, layers=_normed(path, norm))
    if isinstance(layer, Pool):
        return replace(path, nodes=nodes, layers=(*path.layers, layer))
    kernel = layer if is_first else replace(layer, bias=np.zeros_like(layer.bias))
    work = kernel.weight.size * out_shape[0] * out_shape[2] * out_shape[3]
    return replace(
        path,
        nodes=nodes,
        layers=(*path.layers, kernel),
        work=path.work + work,
        is_convolution=True,
    )


def _normed(path: Path, norm: BatchNorm) -> tuple[Kernel | Pool, ...]:
    """The layers with ``norm`` in the last of them, or behind a pool or nothing as a scale."""
    if path.layers and isinstance(path.layers[-1], Kernel):
        return (*path.layers[:-1], fold_batch_norm(path.layers[-1], norm))
    return (*path.layers, fold_batch_norm(unit_kernel(len(norm.gamma)), norm))


def _without_shift(norm: BatchNorm) -> BatchNorm:
    zero = np.zeros_like(norm.mean)
    return replace(norm, mean=zero, beta=zero)
