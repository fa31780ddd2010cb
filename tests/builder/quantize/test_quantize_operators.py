"""What becomes integers, what stays in float, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekit.builder.load import load_model
from edgekit.builder.quantize.operators import (
    DECODE,
    HEAD,
    refuse_quantized,
    select_operators,
)
from edgekit.builder.read import read_model
from edgekit.errors import ConfigError, ModelError
from tests.builder.quantize.quantize_nets import loaded_net
from tests.graphs import model, saved
from tests.world import data


def test_head_and_decoding_stay_in_float_found_by_structure(tmp_path: Path) -> None:
    """No name is looked at: a model from elsewhere has other ones."""
    loaded = loaded_net(tmp_path)
    selection = select_operators(loaded)
    assert {one.name: one.reason for one in selection.float} == {
        "head": HEAD,
        "flat": DECODE,
        "decode": DECODE,
    }
    assert selection.integer[:3] == ("stem", "stem_relu", "depthwise")


def test_none_quantizes_the_head_too_and_names_are_left_out(tmp_path: Path) -> None:
    """For those who know better."""
    loaded = loaded_net(tmp_path)
    assert select_operators(loaded, ("none",)).float == ()
    (kept,) = select_operators(loaded, ("depthwise",)).float
    assert (kept.name, kept.reason) == ("depthwise", "asked for")


def test_a_name_that_the_model_does_not_have_is_an_error(tmp_path: Path) -> None:
    """A typing error must not quantize what was meant to stay."""
    with pytest.raises(ConfigError, match="depthwize"):
        select_operators(loaded_net(tmp_path), ("auto", "depthwize"))


def test_a_layer_without_an_integer_kernel_is_refused_unless_named(tmp_path: Path) -> None:
    """The error says what to type."""
    weights = {
        "w": np.ones((3, 4, 2, 2), np.float32),
        "v": np.ones((2, 4, 1, 1), np.float32),
        "u": np.ones((2, 2, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("ConvTranspose", ["image", "w"], ["a"], name="up", strides=[2, 2]),
        helper.make_node("Conv", ["a", "v"], ["b"], name="body"),
        helper.make_node("Conv", ["b", "u"], ["c"], name="last"),
    ]
    proto = model(nodes, {"image": (1, 3, 8, 8)}, ["c"], weights=weights)
    loaded = load_model(saved(proto, tmp_path / "up.onnx"))
    with pytest.raises(ModelError, match=r"ConvTranspose \(up\).*--keep-float auto,up"):
        select_operators(loaded)
    assert select_operators(loaded, ("auto", "up")).integer == ("body",)


def test_a_model_without_layers_between_is_refused(tmp_path: Path) -> None:
    """One layer is the head; quantizing nothing would be a silent copy."""
    nodes = [helper.make_node("Conv", ["image", "w"], ["a"], name="only")]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32)}
    proto = model(nodes, {"image": (1, 3, 8, 8)}, ["a"], weights=weights)
    loaded = load_model(saved(proto, tmp_path / "one.onnx"))
    with pytest.raises(ModelError, match="no convolution or matrix product"):
        select_operators(loaded)


def test_a_real_quantized_model_is_refused() -> None:
    """MobileNetV2 in QLinear operators, as it comes from elsewhere."""
    proto, _ = read_model(data("models/mobilenet_v2_int8/mobilenet_v2_quant.onnx"), None)
    with pytest.raises(ModelError, match=r"quantized already.*QLinearConv"):
        refuse_quantized(proto, "mobilenet")
