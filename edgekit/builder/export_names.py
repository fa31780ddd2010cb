"""Give the tensors of an exported graph the names of the torch modules that make them.

In:  a graph from torch's exporter, which says in each node's metadata where it came from.  Out: the
same graph, so that a cut reads ``backbone.stages.2.3.act`` and not ``relu_12``, and the sum of a
block's branches ``backbone.stages.2.3.sum``.
Only names change. A node that does not say where it came from keeps its names.
"""

import ast
import re
from collections.abc import Collection

import onnx

_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_NUMBER = re.compile(r"_\d+$")


def name_by_module(
    proto: onnx.ModelProto, *, root: str, sums: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of ``proto`` with readable tensor names; ``root`` is the outermost module's attribute.

    ``sums`` are the paths of modules that add branches: what the last of these additions makes is
    their ``sum``. Inputs and outputs of the graph keep their names.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    wishes = [(tensor.name, tensor.name.removeprefix(f"{root}.")) for tensor in graph.initializer]
    last_adds = _last_adds(graph, root, sums)
    for node in graph.node:
        wish = last_adds.get(node.output[0]) or _wish(node, root)
        wishes += [(name, wish or name) for name in node.output if name]
    taken, new_names = set(fixed), {}
    for name, wish in wishes:
        if name not in fixed:
            new_names[name] = _free(wish, taken)
            taken.add(new_names[name])
    _rename(graph, new_names)
    return copy


def _last_adds(graph: onnx.GraphProto, root: str, sums: Collection[str]) -> dict[str, str]:
    """The name of what the last Add of each of these modules makes, by its present name."""
    last = {}
    for node in graph.node:
        scopes, _ = _origin(node)
        path = _path(scopes, root) if len(scopes) > 1 else None
        if node.op_type == "Add" and path is not None and path in sums:
            last[path] = node.output[0]
    return {name: f"{path}.sum" if path else "sum" for path, name in last.items()}


def _origin(node: onnx.NodeProto) -> tuple[list[str], list[str]]:
    """The modules around a node, outermost first and itself last: their paths, their classes."""
    facts = {entry.key: entry.value for entry in node.metadata_props}
    return _listed(facts.get(_SCOPES)), _listed(facts.get(_CLASSES))


def _path(scopes: list[str], root: str) -> str:
    return scopes[-2].removeprefix(root).removeprefix(".")


def _wish(node: onnx.NodeProto, root: str) -> str | None:
    """The path of the module that made this node; with its operation, if the module is ours."""
    scopes, classes = _origin(node)
    if len(scopes) < 2 or len(classes) < 2:
        return None
    path = _path(scopes, root)
    if classes[-2].startswith("torch.nn.modules."):
        return path or None
    operation = _NUMBER.sub("", scopes[-1])
    return f"{path}.{operation}" if path else operation


def _listed(text: str | None) -> list[str]:
    try:
        value = ast.literal_eval(text or "[]")
    except (ValueError, SyntaxError):
        return []
    return [str(part) for part in value] if isinstance(value, list) else []


def _free(wish: str, taken: set[str]) -> str:
    name, number = wish, 1
    while name in taken:
        number += 1
        name = f"{wish}_{number}"
    return name


def _rename(graph: onnx.GraphProto, new_names: dict[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = new_names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]
    del graph.value_info[:]
