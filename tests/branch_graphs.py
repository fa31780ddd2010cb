"""Multi-branch blocks as ONNX graphs, in the forms in which exporters write them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from edgekit.builder.load import LoadedModel, load_model
from tests.graphs import model, saved


@dataclass(repr=False)
class Graph:
    """Writes operators one by one; each method returns the name of the tensor that it makes."""

    channels: int = 4
    size: int = 9
    opset: int = 17
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def __repr__(self) -> str:
        lines = [f"{n.op_type}({', '.join(n.input)}) -> {n.output[0]}" for n in self.nodes]
        return f"Graph(size={self.size}, seed={self.seed}): " + "; ".join(lines)

    def numbers(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape, dtype=np.float32)

    def weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = value.astype(np.float32)
        return name

    def op(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **more: object
    ) -> str:
        name = output or f"t{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [name], name=f"{kind}_{name}", **more)
        self.nodes.append(node)
        return name

    def conv(
        self,
        source: str,
        out: int = 4,
        kernel: int | tuple[int, int] = 3,
        *,
        reads: int | None = None,
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
        pad: int | None = None,
        bias: bool = False,
        **more: object,
    ) -> str:
        """Padded so that stride 1 keeps the size, unless ``pad`` says otherwise."""
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        reads = self.channels if reads is None else reads
        fan = (reads // groups) * rows * columns
        inputs = [source, self.weight(self.numbers(out, reads // groups, rows, columns) / fan**0.5)]
        if bias:
            inputs.append(self.weight(self.numbers(out)))
        pads = [dilation * (one - 1) // 2 if pad is None else pad for one in (rows, columns)]
        if "auto_pad" not in more:
            more["pads"] = pads * 2
        return self.op(
            "Conv", inputs, group=groups, strides=[stride] * 2, dilations=[dilation] * 2, **more
        )  # fmt: skip

    def norm(self, source: str, channels: int = 4, *, epsilon: float = 1e-5, **more: object) -> str:
        """A BatchNormalization with statistics far from the trivial ones."""
        gamma, beta, mean = (self.numbers(channels) for _ in range(3))
        variance = self.generator.uniform(0.5, 2, channels)
        inputs = [self.weight(one) for one in (gamma, beta, mean, variance)]
        return self.op("BatchNormalization", [source, *inputs], epsilon=epsilon, **more)

    def conv_norm(
        self, source: str, out: int = 4, kernel: int | tuple[int, int] = 3, **more
    ) -> str:
        return self.norm(self.conv(source, out, kernel, **more), out)

    def scale(self, source: str, channels: int = 4) -> str:
        """A BatchNorm as some exporters write it: Mul and Add."""
        shape = (1, channels, 1, 1)
        scaled = self.op("Mul", [source, self.weight(self.numbers(*shape))])
        return self.op("Add", [scaled, self.weight(self.numbers(*shape))])

    def made(self, output: str, *others: str) -> onnx.ModelProto:
        shape = (1, self.channels, self.size, self.size)
        last = self.op("Relu", [output], "end")
        return model(
            self.nodes, {"x": shape}, [last, *others], weights=self.weights, opset=self.opset
        )

    def loaded(self, output: str, folder: Path, *others: str) -> LoadedModel:
        return load_model(saved(self.made(output, *others), folder / "net.onnx"))


def rep_block(graph: Graph, source: str = "x", channels: int = 4, **more: int) -> str:
    """3x3 + 1x1 + identity, each with its BatchNorm, as RepVGG is exported."""
    groups = more.get("groups", 1)
    dense = graph.conv_norm(source, channels, 3, reads=channels, groups=groups)
    point = graph.conv_norm(source, channels, 1, reads=channels, groups=groups)
    total = graph.op("Add", [dense, point])
    return graph.op("Add", [total, graph.norm(source, channels)])


BRANCHES = (
    "conv", "conv_bias", "copy", "1x1", "1x1_bias", "row", "dilated", "identity_norm",
    "identity_scale", "skip", "pool", "padded_1x1_then_conv", "conv_then_1x1",
)  # fmt: skip


@st.composite
def random_blocks(draw: st.DrawFn) -> tuple[Graph, str]:
    """A block of two to five branches in a random geometry; also what follows and stands beside."""
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    kernel = draw(st.sampled_from([1, 3, 3, 5, 7]))
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    out = draw(st.sampled_from([4, 8]))
    graph = Graph(size=draw(st.integers(7, 12)), seed=draw(st.integers(0, 999)))
    same = {"groups": groups, "stride": stride}
    kinds = [kind for kind in BRANCHES if (stride == 1 and out == 4) or kind not in _ONLY_PLAIN]
    if kernel == 1 or stride > 1:
        kinds = [kind for kind in kinds if kind != "padded_1x1_then_conv"]
    if kernel < 5:
        kinds.remove("dilated")
    picked = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    terms = [_branch(graph, kind, kernel, out, same) for kind in ["conv", *picked]]
    if draw(st.booleans()):
        terms.reverse()
    total = _joined(graph, terms, draw(st.sampled_from(["chain", "tree", "sum"])))
    after = draw(st.sampled_from(["", "", "norm", "scale"]))
    if after:
        total = graph.norm(total, out) if after == "norm" else graph.scale(total, out)
    return graph, total


_ONLY_PLAIN = {"identity_norm", "identity_scale", "skip", "pool"}


def _branch(graph: Graph, kind: str, kernel: int, out: int, same: dict[str, int]) -> str:
    groups, stride = same["groups"], same["stride"]
    if kind == "skip":
        return "x"
    if kind == "identity_norm":
        return graph.norm("x")
    if kind == "identity_scale":
        return graph.scale("x")
    if kind == "pool":
        window = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "count_include_pad": 1}
        return graph.norm(graph.op("AveragePool", ["x"], **window))
    if kind == "padded_1x1_then_conv":
        first = graph.conv_norm("x", 4, 1, groups=groups, pad=kernel // 2)
        return graph.conv_norm(first, out, kernel, groups=groups, pad=0)
    if kind == "conv_then_1x1":
        first = graph.conv_norm("x", 4, kernel, **same)
        return graph.conv_norm(first, out, 1, groups=groups)
    if kind == "dilated":
        return graph.conv_norm("x", out, 3, dilation=2, **same)
    if kind == "row":
        return graph.conv_norm("x", out, (1, kernel), **same)
    size = 1 if kind.startswith("1x1") else kernel
    if kind.endswith("bias"):
        return graph.conv("x", out, size, bias=True, **same)
    return graph.conv_norm("x", out, size, groups=groups, stride=stride)


def _joined(graph: Graph, terms: list[str], how: str) -> str:
    if how == "sum":
        return graph.op("Sum", terms)
    if how == "tree" and len(terms) > 3:
        halves = [_joined(graph, part, "chain") for part in (terms[:2], terms[2:])]
        return graph.op("Add", halves)
    total = terms[0]
    for term in terms[1:]:
        total = graph.op("Add", [total, term])
    return total
