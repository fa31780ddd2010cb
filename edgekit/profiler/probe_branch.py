"""Collect the operators, weights and borders of the small model that holds one kernel.

In:  operators, as a probe asks for them.  Out: a Branch for ``onnx_writer``.  Pure.
Each branch starts with an operator that writes the kernel's input and ends with one that reads a
number of its result, as in a real network, so that the caches are as they would be there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgekit.profiler.onnx_writer import Attribute, Node
from edgekit.spec.tensors import Array, TensorSpec

FEEDER = "feed"
"""In the names of the operators around the kernel: their time is not the kernel's."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Operators, weights and borders of one kernel, all named with the branch's prefix."""

    nodes: tuple[Node, ...]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    weights: Mapping[str, Array] = field(default_factory=dict)


@dataclass
class Maker:
    """Collects the parts of one branch."""

    prefix: str
    dtype: Literal["float32", "uint8"] = "float32"
    """Of what the kernel reads and writes, unless a rule says otherwise."""
    nodes: list[Node] = field(default_factory=list)
    inputs: list[TensorSpec] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def fed(self, *shape: int, name: str = "x") -> str:
        """An input that an operator of this model has just written."""
        if self.dtype == "uint8":
            return self.fed_bytes(*shape, name=name)
        source, fresh = f"{self.prefix}{name}", f"{self.prefix}{name}-{FEEDER}"
        self.inputs.append(TensorSpec(name=source, dtype="float32", shape=shape))
        self.nodes.append(Node(op_type="Relu", inputs=(source,), outputs=(fresh,), name=fresh))
        return fresh

    def weight(self, name: str, array: Array) -> str:
        """A weight under the branch's prefix."""
        self.weights[f"{self.prefix}{name}"] = array
        return f"{self.prefix}{name}"

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """The next operator; its result."""
        result = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(
            Node(
                op_type=kind, inputs=inputs, outputs=(result,), attributes=attributes, name=result,
                domain=domain,
            )
        )  # fmt: skip
        return result

    def fed_bytes(self, *shape: int, name: str = "x") -> str:
        """The same for 8-bit integers."""
        source, fresh = f"{self.prefix}{name}", f"{self.prefix}{name}-{FEEDER}"
        self.inputs.append(TensorSpec(name=source, dtype="float32", shape=shape))
        scale = self.weight(f"{name}-scale", np.array(0.02, np.float32))
        zero = self.weight(f"{name}-zero", np.array(128, np.uint8))
        self.nodes.append(
            Node(op_type="QuantizeLinear", inputs=(source, scale, zero), outputs=(fresh,),
                 name=fresh)
        )  # fmt: skip
        return fresh

    def done(self, result: str, *shape: int, dtype: str = "") -> Branch:
        """The finished branch: one number of the kernel's result leaves the model.

        So the result is a buffer that the runtime reuses, as between two kernels of a network.
        """
        rank = len(shape)
        bounds = (np.zeros(rank, np.int64), np.ones(rank, np.int64), np.arange(rank))
        names = [self.weight(f"{FEEDER}-{index}", value) for index, value in enumerate(bounds)]
        drop = f"{self.prefix}{FEEDER}-last"
        self.nodes.append(
            Node(op_type="Slice", inputs=(result, *names), outputs=(drop,), name=drop)
        )
        return self._branch(drop, (1,) * rank, dtype or self.dtype)

    def _branch(self, result: str, shape: tuple[int, ...], dtype: str) -> Branch:
        return Branch(
            nodes=tuple(self.nodes),
            inputs=tuple(self.inputs),
            output=TensorSpec(name=result, dtype=dtype, shape=shape),
            weights=self.weights,
        )


def small_floats(*shape: int) -> Array:
    """Numbers around zero, the same for the same count."""
    generator = np.random.default_rng(math.prod(shape) % 9973)
    numbers: Array = generator.random(shape, np.float32)
    return np.asarray((numbers - np.float32(0.5)) / np.float32(16))


def window_of(words: list[str]) -> tuple[list[int], list[int], list[int], list[int]]:
    """kernel_shape, strides, dilations, and pads that keep the size at stride 1."""
    kernel = [int(part) for part in words[1].split("x")]
    strides = [int(part) for part in words[2][1:].split("x")]
    dilations = [int(part) for part in words[3][1:].split("x")]
    strides, dilations = strides * (2 // len(strides)), dilations * (2 // len(dilations))
    spans = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    before = [span // 2 for span in spans]
    after = [span - one for span, one in zip(spans, before, strict=True)]
    return kernel, strides, dilations, before + after


def renamed(node: Node, result: str) -> Node:
    """The same operator under the name of another result."""
    return Node(
        op_type=node.op_type, inputs=node.inputs, outputs=(result,), attributes=node.attributes,
        domain=node.domain, name=result,
    )  # fmt: skip


def shares(total: int, parts: int) -> list[int]:
    """``total`` as equal whole shares, the last one of the rest."""
    return [total // parts] * (parts - 1) + [total - total // parts * (parts - 1)]
