"""Time a fixed piece of work as a device does it: run inside it by ``calibrate``.

In:  the dilation, on the command line.  Out: one line, the seconds of one inference: the lower
quartile, as other work on the machine only ever adds to them.
The work is a network of convolutions through the same session that agents use.
"""

import sys
import tempfile
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.dilated import DilatedSession
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session, random_inputs

_LAYERS, _CHANNELS, _SIDE_PX = 6, 32, 40
_RUNS, _WARM_UP_RUNS = 60, 10
_BUDGET_S = 6.0
_LEAST_RUNS = 16


def network(path: Path) -> None:
    """Write a chain of 3x3 convolutions, about 6 ms of a processor of 2020."""
    generator = np.random.default_rng(0)
    shape = [1, _CHANNELS, _SIDE_PX, _SIDE_PX]
    nodes, weights = [], []
    for layer in range(_LAYERS):
        values = generator.normal(0, 0.05, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(
            helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"], pads=[1] * 4)
        )
    graph = helper.make_graph(
        nodes,
        "stopwatch",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{_LAYERS}", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def main() -> None:
    """Run, print."""
    dilation = float(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "work.onnx"
        network(path)
        session: Session = OrtSession(path)
    if dilation > 1:
        session = DilatedSession(session, factor=dilation)
    inputs = random_inputs(session.inputs, seed=0)
    for _ in range(_WARM_UP_RUNS if dilation < 10 else 1):
        session.run(inputs)
    times_s: list[float] = []
    while len(times_s) < _RUNS and (len(times_s) < _LEAST_RUNS or sum(times_s) < _BUDGET_S):
        started_s = perf_counter()
        session.run(inputs)
        times_s.append(perf_counter() - started_s)
    print(quantiles(times_s, n=4)[0])


if __name__ == "__main__":
    main()
