"""Small networks and pictures for the tests of quantization."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import helper

from edgekit.builder.load import LoadedModel, load_model
from tests.graphs import model, saved

SIZE_PX = 32


def net(
    *, seed: int = 0, wild_channel: float = 1.0, can_be_equalized: bool = True
) -> onnx.ModelProto:
    """Stem, depthwise, pointwise, head, decoding; ``wild_channel`` scales one stem channel up.

    A sum behind the stem keeps equalisation from undoing that.
    """
    generator = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        fan_in = np.prod(shape[1:])
        return (generator.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)

    weights = {
        "w0": weight(8, 3, 3, 3),
        "b0": weight(8, 1).reshape(8),
        "w1": weight(8, 1, 3, 3),
        "w2": weight(16, 8, 1, 1),
        "b2": weight(16, 1).reshape(16),
        "w3": weight(10, 16, 1, 1),
        "ten": np.full(1, 10, np.float32),
    }
    weights["w0"][0] *= wild_channel
    weights["w2"][:, 0] /= wild_channel
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], name="stem", pads=pads),
        helper.make_node("Relu", ["c0"], ["r0"], name="stem_relu"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="depthwise", pads=pads, group=8),
        helper.make_node("Conv", ["c1", "w2", "b2"], ["c2"], name="pointwise"),
        helper.make_node("Relu", ["c2"], ["r2"], name="pointwise_relu"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Conv", ["p", "w3"], ["c3"], name="head"),
        helper.make_node("Flatten", ["c3"], ["f3"], name="flat"),
        helper.make_node("Mul", ["f3", "ten"], ["logits"], name="decode"),
    ]
    if not can_be_equalized:
        nodes.insert(2, helper.make_node("Add", ["r0", "r0"], ["twice"], name="twice"))
        nodes[3].input[0] = "twice"
    inputs = {"image": (1, 3, SIZE_PX, SIZE_PX)}
    return model(nodes, inputs, ["logits"], weights=weights, opset=13)


def loaded_net(folder: Path, **options: Any) -> LoadedModel:
    """The network, as the builder has it."""
    folder.mkdir(exist_ok=True)
    return load_model(saved(net(**options), folder / "net.onnx"))


def frames(count: int, *, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Inputs of the network: smooth pictures from 0 to 1."""
    return [
        {"image": picture.transpose(2, 0, 1)[None].astype(np.float32) / 255}
        for picture in pictures(count, seed=seed)
    ]


def pictures(count: int, *, seed: int = 0) -> list[np.ndarray]:
    """Smooth random pictures, all different."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 5, 5, 3), np.uint8)
    return [cv2.resize(one, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC) for one in coarse]


def write_pictures(folder: Path, images: list[np.ndarray]) -> Path:
    """A folder of PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
    return folder
