"""How far a profile's predictions are off, on networks made up on the spot.

In:  a DeviceProfile with its kernel table.  Out: the same, fitted and with a PredictionError.
A network is a random pyramid of the blocks that detectors are made of; what was measured is its
time as a whole, never its kernels. Boards have no trained models at hand; on a workstation
``tests/bench/predictor.py`` says the same for real ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from edgekit.planner.calibrate import MeasuredShard, fit, shard_terms
from edgekit.planner.predict import Predictor
from edgekit.profiler.onnx_writer import Attribute, Node, write_model
from edgekit.profiler.probe_session import interleaved_times_s, probe_run
from edgekit.spec.profile import DeviceProfile, PredictionError
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload

_BLOCKS = ("plain", "plain", "separable", "residual", "gated", "joined")
_WIDTHS = (16, 24, 32, 40, 48, 64)
_SIDES_PX = (48, 64, 96, 128, 160, 192)
_LEAST_SIDE_PX = 8
"""Networks stop halving their images about there."""
_MOST_CHANNELS = 384
NETWORK_COUNT = 24


@dataclass
class MadeUpNetwork:
    """Grows block by block, as an ONNX graph and as the Workload that describes it."""

    side_px: int
    nodes: list[Node] = field(default_factory=list)
    ops: list[OpCost] = field(default_factory=list)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    last: str = "x"

    def __post_init__(self) -> None:
        self._note("x", 3, self.side_px)

    @property
    def channels(self) -> int:
        """Of the last tensor."""
        return self.tensors[self.last].shape[1]

    @property
    def side(self) -> int:
        """Pixels a side of the last tensor."""
        return self.tensors[self.last].shape[2]

    def conv(self, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False) -> None:
        """A convolution that keeps the size, or halves it."""
        before, groups = self.channels, self.channels if depthwise else 1
        side = -(-self.side // stride)
        shape = (channels, before // groups, kernel, kernel)
        weight = f"w{len(self.ops)}"
        scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        self.weights[weight] = np.random.default_rng(0).standard_normal(shape, np.float32) * scale
        kind = "depthwise" if depthwise else "dense"
        self._add(
            "Conv", [self.last, weight], f"Conv {kernel}x{kernel} s{stride} d1 {kind}",
            (before, channels, side, side, groups), channels, side,
            {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": groups},
        )  # fmt: skip

    def pointwise(self, kind: str, *names: str) -> None:
        """An elementwise operator on the last tensor, or on ``names``."""
        key = f"{kind} same" if len(names) == 2 else kind
        sizes = (self.channels, self.side**2)
        self._add(kind, list(names or (self.last,)), key, sizes, self.channels, self.side, {})

    def join(self, *names: str) -> None:
        """Concatenate channels."""
        channels = sum(self.tensors[name].shape[1] for name in names)
        count = channels * self.side**2
        sizes = (count, count, len(names))
        self._add("Concat", list(names), "Concat axis1", sizes, channels, self.side, {"axis": 1})

    def _add(
        self,
        kind: str,
        inputs: Sequence[str],
        key: str,
        sizes: tuple[int, ...],
        channels: int,
        side: int,
        attributes: dict[str, Attribute],
    ) -> None:
        name = f"t{len(self.ops)}"
        self.nodes.append(
            Node(op_type=kind, inputs=tuple(inputs), outputs=(name,), attributes=attributes)
        )
        self.ops.append(
            OpCost(
                name=name, op_type=kind, outputs=(name,), work_flop=0, traffic_bytes=0,
                inputs=tuple(one for one in inputs if one in self.tensors), weight_bytes=0,
                parameter_count=0, kernel=KernelShape(key=key, sizes=sizes),
            )
        )  # fmt: skip
        self._note(name, channels, side)
        self.last = name

    def _note(self, name: str, channels: int, side: int) -> None:
        self.tensors[name] = TensorSpec(name=name, dtype="float32", shape=(1, channels, side, side))

    def workload(self) -> Workload:
        """What the predictor is given."""
        return Workload(
            model="made up", model_sha256="", ops=tuple(self.ops), inputs=("x",),
            tensors=tuple(self.tensors.values()), outputs=(self.last,),
        )  # fmt: skip

    def model(self) -> bytes:
        """What the runtime is given."""
        return write_model(
            self.nodes, inputs=[self.tensors["x"]], outputs=[self.tensors[self.last]],
            weights=self.weights,
        )  # fmt: skip


def made_up(seed: int) -> MadeUpNetwork:
    """A random network, the same for the same seed."""
    generator = random.Random(seed)
    network = MadeUpNetwork(side_px=generator.choice(_SIDES_PX))
    network.conv(generator.choice(_WIDTHS), 3, stride=2)
    network.pointwise("Relu")
    for _ in range(generator.randint(2, 4)):
        if network.side <= _LEAST_SIDE_PX:
            break
        network.conv(min(2 * network.channels, _MOST_CHANNELS), 3, stride=2)
        network.pointwise("Relu")
        for _ in range(generator.randint(1, 4)):
            _block(network, generator.choice(_BLOCKS))
    return network


def _block(network: MadeUpNetwork, kind: str) -> None:
    start, channels = network.last, network.channels
    if kind == "separable":
        network.conv(channels, 3, depthwise=True)
        network.pointwise("Relu")
        network.conv(channels, 1)
    elif kind == "joined":
        network.conv(channels // 2 // 8 * 8, 1)
        one, network.last = network.last, start
        network.conv(channels // 2 // 8 * 8, 3)
        network.join(one, network.last)
        network.conv(channels, 1)
    elif kind == "gated":
        network.conv(channels, 1)
        value = network.last
        network.pointwise("Sigmoid")
        network.pointwise("Mul", value, network.last)
        return
    else:
        network.conv(channels, 3)
    if kind == "residual":
        network.pointwise("Add", network.last, start)
    network.pointwise("Relu")


def measure_made_up(
    *, threads: int = 1, network_count: int = NETWORK_COUNT, budget_s: float = 6.0
) -> tuple[float, ...]:
    """Seconds of each made-up network as a whole.

    Raises: ModelError if the runtime refuses one of them.
    """
    runs = [probe_run(made_up(seed).model(), threads=threads) for seed in range(network_count)]
    return tuple(interleaved_times_s(runs, budget_s=budget_s))


def with_error(profile: DeviceProfile, times_s: Sequence[float]) -> DeviceProfile:
    """``profile`` fitted to the made-up networks that took ``times_s``, and with the error that its
    predictions have for each of them when it is left out of the fit.
    """
    networks = [made_up(seed) for seed in range(len(times_s))]
    measured = [
        MeasuredShard(workload=network.workload(), ops=range(len(network.ops)), time_s=time_s)
        for network, time_s in zip(networks, times_s, strict=True)
    ]
    terms = shard_terms(profile, measured)
    errors = [
        100 * _error(fit(profile, [*terms[:index], *terms[index + 1 :]]), one)
        for index, one in enumerate(measured)
    ]
    error = PredictionError(
        shard_count=len(errors),
        model_count=len(errors),
        mape_percent=round(float(np.mean(errors)), 2),
        within_10_percent=round(100 * float(np.mean([error <= 10 for error in errors])), 1),
        worst_percent=round(max(errors), 2),
    )
    return msgspec.structs.replace(fit(profile, terms), error=error)


def _error(profile: DeviceProfile, one: MeasuredShard) -> float:
    return abs(Predictor(profile).predict(one.workload, one.ops).time_s / one.time_s - 1)
