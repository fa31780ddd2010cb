"""Names for blocks that people recognise: the path of the module that the block was.

In:  a GraphView and the operators of a block.  Out: names, unique in the model.
Exporters leave the path in three places: in the names of weights (stages.1.2.conv.weight), in those
of operators (/stages/stages.1/stages.1.2/Add) and, in our own exports, of tensors
(stages.1.2.add). Where there is none of them, the tensor that leaves the block names it.
"""

import re
from collections.abc import Iterable, Sequence

from edgekit.builder.fold.onnx_graph import GraphView

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_SPECIAL = re.compile(r"[,*?\[\]\s]")
_LIKE_NUMBERS = re.compile(r"\d+(-\d+)?")


def block_name(view: GraphView, nodes: Iterable[int], output: str) -> str:
    """The module that adds the branches; else what the branches' weights have in common."""
    maker = view.node(view.maker[output])
    path = _of_operator(maker.name) or _of_tensor(output) or _common(_weight_paths(view, nodes))
    name = _SPECIAL.sub("_", path or output)
    return f"tensor_{name}" if _LIKE_NUMBERS.fullmatch(name) else name


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` in their order; a repeated one gets a number."""
    found: list[str] = []
    for name in names:
        free, number = name, 1
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found.append(free)
    return tuple(found)


def _of_operator(name: str) -> str:
    """``/stages/stages.1/stages.1.2/Add`` -> ``stages.1.2``; "" if it is no such name."""
    if not name.startswith("/"):
        return ""
    parts: list[str] = []
    for part in name.split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _of_tensor(name: str) -> str:
    return name.rpartition(".")[0] if _DOTTED.fullmatch(name) else ""


def _weight_paths(view: GraphView, nodes: Iterable[int]) -> list[list[str]]:
    names = [
        name for index in nodes for name in view.node(index).input if name in view.initializers
    ]
    return [name.split(".")[:-1] for name in names if _DOTTED.fullmatch(name)]


def _common(paths: Sequence[Sequence[str]]) -> str:
    """What all paths begin with."""
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
