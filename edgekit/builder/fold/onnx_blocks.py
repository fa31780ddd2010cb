"""Find re-parameterizable multi-branch blocks in an arbitrary ONNX graph, by structure alone.

In:  a LoadedModel.  Out: its blocks in model order, and what only looks like one, with the reason.
A block is a sum (Add, Sum, or a tree of them) in which two or more terms are linear functions of
one tensor: convolutions, BatchNormalizations, scales per channel, average pools, the bare tensor.
Every tensor inside is read only inside. What else is added in the same sum stays outside and is
added to the folded block. Branches through a concatenation are onnx_concat's.
Source: Ding et al., "RepVGG", CVPR 2021, section 3; "Diverse Branch Block", CVPR 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.merge import sum_branches
from edgekit.builder.fold.onnx_linear import Pool
from edgekit.builder.fold.onnx_paths import Path
from edgekit.errors import ModelError
from edgekit.spec.fusion import COPY, IDENTITY, POINTWISE, POOL, S3, S3_S1, FusionStrategy

SUM, CONCAT = "sum", "concat"
"""Kinds of blocks: branches over one tensor that are added; over several that are joined."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """One linear branch: as one kernel, to be folded, and as layers, to stay live."""

    kind: str
    source: str
    kernel: Kernel
    layers: tuple[Kernel | Pool, ...]
    """Without BatchNorms; none if the branch is the bare tensor."""
    nodes: tuple[str, ...]
    """Names of its operators."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """A part of the graph that can be folded. Its activation, if any, comes after ``output``."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    branches: tuple[Branch, ...]
    """The main branch first, the others in graph order; in a concat block the 1x1 last."""
    added: tuple[str, ...] = ()
    """Tensors from elsewhere that the same sum adds."""
    ops: tuple[str, ...]
    """Names of all operators of the block, in graph order."""
    note: str = ""
    """Why some term of the sum was left out, where it looks like a branch."""

    @property
    def main(self) -> Branch:
        """The branch with the largest kernel, into which others fold."""
        return self.branches[0]

    @property
    def optional(self) -> tuple[Branch, ...]:
        """The branches that may stay live."""
        return self.branches[-1:] if self.kind == CONCAT else self.branches[1:]

    @property
    def live_kinds(self) -> tuple[str, ...]:
        """Kinds of branches that a strategy can keep live, each once."""
        return tuple(dict.fromkeys(branch.kind for branch in self.optional))

    @property
    def least_work(self) -> FusionStrategy:
        """S3; in a concat block S3+S1 if the 1x1 is less work behind the convolutions than in them.

        In them it multiplies with every tap: 3x3 kernels from 16 to 16 channels become 16 to 64.
        """
        if self.kind == SUM:
            return S3
        apart = sum(branch.kernel.weight.size for branch in self.branches)
        parts = (branch.kernel for branch in self.branches[:-1])
        inside = sum(self.out_count * one.weight.size // len(one.bias) for one in parts)
        return S3 if inside <= apart else S3_S1

    @property
    def geometry(self) -> ConvGeometry:
        """That of the main branch."""
        return self.main.kernel.geometry

    @property
    def in_count(self) -> int:
        """Channels that the main branch reads."""
        return self.main.kernel.in_count

    @property
    def out_count(self) -> int:
        """Channels of the output."""
        return len(self.branches[-1].kernel.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMiss:
    """What looks like a block but cannot be folded. ``is_damage``: no strategy can run it."""

    name: str
    output: str
    reason: str
    is_damage: bool = False


class NotFoldableError(Exception):
    """These paths are no block; the reason is the message."""


def branches_of(
    paths: Sequence[Path], names: Sequence[str], *, pixel_count: int
) -> tuple[tuple[Branch, ...], dict[int, str]]:
    """The branches that ``paths`` from one source are, main first.

    ``names`` are those of all operators of the graph; ``pixel_count`` is B x H x W of the output.

    Returns: also the positions of paths that do not fold with the others, and why.
    Raises: NotFoldableError if fewer than two fold; ModelError if a number is not finite.
    """
    kernels, misfits = _kernels(paths)
    kept = [position for position in range(len(paths)) if position not in misfits]
    convs = [p for p in kept if paths[p].is_convolution]
    if not convs or len(kept) < 2:
        reasons = "; ".join(misfits.values()) or "there is no convolution among its branches"
        raise NotFoldableError(reasons)
    main = max(convs, key=lambda p: _rank(paths[p], kernels[p], -p))
    for position in _misplaced(paths, kernels, kept, main):
        misfits[position] = "its kernel has no place in the main one"
    kept = [main, *(p for p in kept if p not in misfits and p != main)]
    if len(kept) < 2:
        raise NotFoldableError("; ".join(misfits.values()))
    work_before = sum(paths[p].work for p in kept)
    _refuse_growth([kernels[p] for p in kept], pixel_count, work_before)
    branches = tuple(
        Branch(
            kind=_kind(paths[p], kernels[p], kernels[main], is_main=p == main),
            source=paths[p].source,
            kernel=kernels[p],
            layers=paths[p].layers,
            nodes=tuple(names[index] for index in paths[p].nodes),
        )
        for p in kept
    )
    return branches, misfits


def _kernels(paths: Sequence[Path]) -> tuple[dict[int, Kernel], dict[int, str]]:
    """Each path as a kernel, or why it is none."""
    kernels: dict[int, Kernel] = {}
    misfits: dict[int, str] = {}
    for position, path in enumerate(paths):
        try:
            kernels[position] = path.kernel()
        except ModelError as error:
            misfits[position] = error.what
    return kernels, misfits


def _rank(path: Path, kernel: Kernel, order: int) -> tuple[bool, int, int, int]:
    """The largest kernel is the main one; of several the one with fewest groups, then the first."""
    geometry = kernel.geometry
    return not path.has_pool, geometry.tap_count, -geometry.groups, order


def _misplaced(
    paths: Sequence[Path], kernels: dict[int, Kernel], kept: Sequence[int], main: int
) -> list[int]:
    """Positions that do not fold into the main kernel; none if all fold into a larger one."""
    try:
        total = sum_branches([kernels[p] for p in kept])
        if _multiply_adds(total) <= sum(_multiply_adds(kernels[p]) for p in kept):
            return []
    except ModelError:
        pass
    return [p for p in kept if p != main and not _has_place(kernels[p], kernels[main])]


def _has_place(kernel: Kernel, main: Kernel) -> bool:
    try:
        return sum_branches([main, kernel]).geometry == main.geometry
    except ModelError:
        return False


def _multiply_adds(kernel: Kernel) -> int:
    """Per output pixel."""
    return int(kernel.weight.size)


def _refuse_growth(kernels: Sequence[Kernel], pixel_count: int, work_before: int) -> None:
    """Raises: NotFoldableError if one convolution is more work than all branches as they stand."""
    work_after = _multiply_adds(sum_branches(kernels)) * pixel_count
    if work_after > work_before:
        raise NotFoldableError(
            f"one convolution would take {work_after / max(1, work_before):.1f} times the work of "
            "its branches"
        )


def _kind(path: Path, kernel: Kernel, main: Kernel, *, is_main: bool) -> str:
    size = kernel.geometry.kernel
    written = f"{size[0]}x{size[1]}"
    if is_main:
        return written
    if path.has_pool:
        return POOL
    if not path.is_convolution or _is_scale(kernel, main):
        return IDENTITY
    if size == main.geometry.kernel:
        return COPY
    return POINTWISE if size == (1, 1) else written


def _is_scale(kernel: Kernel, main: Kernel) -> bool:
    """True for a depthwise 1x1 beside a convolution that mixes channels: a scaled identity."""
    unit = ConvGeometry.square(1, groups=kernel.in_count)
    is_unit = kernel.geometry == unit and len(kernel.bias) == kernel.in_count
    return is_unit and main.geometry.groups < kernel.in_count
