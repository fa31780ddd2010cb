"""The search for blocks: every sum of a graph, from the last to the first.

In:  a LoadedModel.  Out: Findings: blocks in model order, and what only looks like one.
A sum whose terms come from several tensors is searched for the largest group from one of them; a
smaller sum inside it that holds just that group is preferred, because its own tensor stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.builder.fold.onnx_blocks import (
    SUM,
    Block,
    Branch,
    NearMiss,
    NotFoldableError,
    branches_of,
)
from edgekit.builder.fold.onnx_concat import find_concats
from edgekit.builder.fold.onnx_graph import GraphView, view_of
from edgekit.builder.fold.onnx_linear import Obstacle
from edgekit.builder.fold.onnx_names import block_name, unique_names
from edgekit.builder.fold.onnx_paths import Path, Tracer
from edgekit.builder.load import LoadedModel
from edgekit.errors import ModelError

_MOST_SUMS = 32
"""Sums of one tree that are looked at together; the block of a net has fewer branches."""
_MAX_OBSTACLES = 8
"""Operators on a branch to look behind before saying why it is not linear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found in one model, in model order."""

    blocks: tuple[Block, ...]
    near_misses: tuple[NearMiss, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks."""
        return tuple(block.name for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Term:
    """One tensor that a sum adds, and the linear paths to it, all from one source."""

    tensor: str
    paths: tuple[Path, ...]

    @property
    def source(self) -> str:
        return self.paths[0].source


def find_blocks(loaded: LoadedModel) -> Findings:
    """All blocks of ``loaded``, and its near misses; nothing that a graph holds is an error."""
    search = _Search(view_of(loaded))
    for index in reversed(loaded.parts.activation_nodes):
        if index not in search.claimed and search.tracer.is_sum(index):
            search.look_at(index)
    search.look_at_concats()
    return search.findings()


class _Search:
    """What has been found so far; sums are looked at from the last to the first."""

    def __init__(self, view: GraphView) -> None:
        self.view, self.tracer = view, Tracer(view)
        self.names = [node.name for node in view.loaded.proto.graph.node]
        self.claimed: set[int] = set()
        self._blocks: list[tuple[int, Block]] = []
        self._near: list[tuple[int, NearMiss]] = []

    def look_at(self, index: int) -> None:
        """Try the sum at ``index`` as the end of a block."""
        try:
            terms, sums = self._terms(index)
            group = _largest_group(terms)
            has_conv = any(path.is_convolution for term in group for path in term.paths)
            if len(group) > 1 and has_conv and not self._has_sum_of(group, sums):
                self._build(index, terms, group, sums)
            else:
                self._explain(index, terms, sums)
        except NotFoldableError as error:
            self._miss(index, sums, str(error), is_damage=False)
        except ModelError as error:
            self._miss(index, [index], error.what, is_damage=True)

    def look_at_concats(self) -> None:
        """Find the blocks through a concatenation among what is left."""
        for found in find_concats(self.view, self.tracer, self.claimed):
            self._blocks.append((found.last, found.block))

    def findings(self) -> Findings:
        """Everything found, in model order and with unique names."""
        blocks = [block for _, block in sorted(self._blocks, key=lambda pair: pair[0])]
        near = [miss for _, miss in sorted(self._near, key=lambda pair: pair[0])]
        names = unique_names([*(one.name for one in blocks), *(one.name for one in near)])
        return Findings(
            blocks=tuple(
                replace(one, name=name)
                for one, name in zip(blocks, names[: len(blocks)], strict=True)
            ),
            near_misses=tuple(
                replace(one, name=name)
                for one, name in zip(near, names[len(blocks) :], strict=True)
            ),
        )

    def _terms(self, index: int) -> tuple[list[_Term], list[int]]:
        """The terms of a tree of sums, in the order in which it adds them, and all its sums."""
        tensors: list[str] = []
        sums = [index]
        waiting = list(reversed(self.view.node(index).input))
        while waiting:
            name = waiting.pop()
            maker = self._inner_sum(name)
            if maker is not None and len(sums) < _MOST_SUMS:
                sums.append(maker)
                waiting.extend(reversed(self.view.node(maker).input))
            else:
                tensors.append(name)
        return [_Term(tensor=name, paths=self.tracer.paths(name)) for name in tensors], sums

    def _inner_sum(self, name: str) -> int | None:
        """The sum that makes ``name``, if only one operator reads it."""
        maker = self.view.maker.get(name)
        is_sum = maker is not None and self.view.is_inner(name) and self.tracer.is_sum(maker)
        return maker if is_sum else None

    def _has_sum_of(self, group: Sequence[_Term], sums: Sequence[int]) -> bool:
        """True if a smaller sum of the tree adds exactly this group; it comes up on its own."""
        wanted = sorted(term.tensor for term in group)
        tensors: dict[int, list[str]] = {}
        for index in reversed(sums):  # an inner sum comes after the one that reads it
            added: list[str] = []
            for name in self.view.node(index).input:
                inner = self._inner_sum(name)
                added += tensors.get(inner, [name]) if inner is not None else [name]
            tensors[index] = added
        return any(sorted(tensors[index]) == wanted for index in sums[1:])

    def _build(
        self, index: int, terms: Sequence[_Term], group: Sequence[_Term], sums: Sequence[int]
    ) -> None:
        """Raises: NotFoldableError or ModelError with the reason why it is none."""
        output = self.view.node(index).output[0]
        rest = [term for term in terms if term not in group]
        note = self._leftovers(rest, group[0].source)
        group, reason = self._fitting(group, output)
        paths = [path for term in group for path in term.paths]
        behind: list[int] = []
        if len(group) == len(terms):
            more, behind, output = self.tracer.with_what_follows(paths, output)
            paths = list(more)
        branches, misfits = self._branches(paths, output)
        if misfits:
            raise NotFoldableError("; ".join(misfits.values()))
        nodes = sorted({*sums, *behind, *(one for path in paths for one in path.nodes)})
        self._keep(nodes, output, branches, note or reason, added=tuple(
            term.tensor for term in terms if term not in group
        ))  # fmt: skip

    def _fitting(self, group: Sequence[_Term], output: str) -> tuple[list[_Term], str]:
        """The terms that fold with one another, and why others do not.

        Raises: NotFoldableError if they are fewer than two.
        """
        paths = [path for term in group for path in term.paths]
        _, misfits = self._branches(paths, output)
        unfit = [paths[position] for position in misfits]
        fit = [term for term in group if not any(path in unfit for path in term.paths)]
        reason = "; ".join(misfits.values())
        if len(fit) < 2:
            raise NotFoldableError(reason)
        return fit, reason

    def _branches(
        self, paths: Sequence[Path], output: str
    ) -> tuple[tuple[Branch, ...], dict[int, str]]:
        batch, _, height, width = self.view.shape(output)
        return branches_of(paths, self.names, pixel_count=batch * height * width)

    def _keep(
        self,
        nodes: Sequence[int],
        output: str,
        branches: tuple[Branch, ...],
        note: str,
        added: tuple[str, ...],
    ) -> None:
        block = Block(
            name=block_name(self.view, nodes, output),
            kind=SUM,
            inputs=(branches[0].source,),
            output=output,
            branches=branches,
            added=added,
            ops=tuple(self.names[one] for one in nodes),
            note=note,
        )
        self.claimed.update(nodes)
        self._blocks.append((nodes[-1], block))

    def _leftovers(self, rest: Sequence[_Term], source: str) -> str:
        """Why other terms of the sum are no branches over ``source``, where they begin there too.

        Raises: ModelError if the numbers of such a term define no function.
        """
        found = [self._obstacles(term) for term in rest]
        reasons = [obstacles for begins, obstacles in found if begins == source]
        for obstacle in (one for obstacles in reasons for one in obstacles):
            if obstacle.is_damage:
                raise ModelError(obstacle.reason, hint="repair the model")
        return "; ".join(dict.fromkeys(one.reason for several in reasons for one in several))

    def _explain(self, index: int, terms: Sequence[_Term], sums: Sequence[int]) -> None:
        """Record a near miss if terms begin at one tensor, but not all are linear."""
        found = [self._obstacles(term) for term in terms]
        begins = [source for source, _ in found]
        shared = [obstacles for source, obstacles in found if begins.count(source) > 1]
        obstacles = [one for several in shared for one in several]
        if obstacles:
            reason = "; ".join(dict.fromkeys(one.reason for one in obstacles))
            damage = any(one.is_damage for one in obstacles)
            self._miss(index, sums, reason, is_damage=damage)

    def _obstacles(self, term: _Term) -> tuple[str, list[Obstacle]]:
        """Where a term begins if operators that are not linear are passed too, and these."""
        path = term.paths[0]
        passed: list[Obstacle] = []
        while path.stop is not None and len(passed) < _MAX_OBSTACLES:
            passed.append(path.stop)
            node = self.view.node(self.view.maker[path.source])
            reads = [name for name in node.input if name and not self.view.is_constant(name)]
            if len(reads) != 1:
                return path.source, passed
            path = self.tracer.paths(reads[0])[0]
        return path.source, passed

    def _miss(self, index: int, sums: Sequence[int], reason: str, *, is_damage: bool) -> None:
        output = self.view.node(index).output[0]
        miss = NearMiss(
            name=block_name(self.view, sums, output),
            output=output,
            reason=reason,
            is_damage=is_damage,
        )
        self._near.append((index, miss))


def _largest_group(terms: Sequence[_Term]) -> list[_Term]:
    """The terms from the tensor that most of them come from; the first such tensor."""
    groups: dict[str, list[_Term]] = {}
    for term in terms:
        groups.setdefault(term.source, []).append(term)
    return max(groups.values(), key=len)
