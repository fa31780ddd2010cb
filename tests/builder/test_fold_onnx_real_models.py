"""Trained models of others: what folds in them, and that nothing is seen that is not there."""

from pathlib import Path

import pytest

from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_blocks, fold_model
from edgekit.builder.load import load_model
from edgekit.spec.fusion import S3, S3_S1, FusionRule

MODELS = Path(__file__).parents[2] / "../shared/data/models"

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="../shared/data is not here")


def test_the_dilated_block_of_ultraface_is_found_and_folds() -> None:
    """Three dilated convolutions, Concat, 1x1 + BN; the shortcut stays outside."""
    loaded = load_model(MODELS / "ultraface/version-RFB-320.onnx")
    (block,) = find_blocks(loaded).blocks
    assert (block.name, block.kind, block.output) == ("base_net.7", "concat", "310")
    assert [one.kernel.geometry.dilation[0] for one in block.branches] == [2, 3, 5, 1]
    for strategy, concats in ((S3, 4), (S3_S1, 5)):
        folded, report = fold_model(loaded, [FusionRule(strategy=strategy)])
        kinds = [node.op_type for node in folded.proto.graph.node]
        assert "BatchNormalization" not in kinds
        assert kinds.count("Concat") == concats
        assert (report.conv_bn_count, report.ops_before, report.ops_after) == (31, 163, 128)
        assert report.max_relative_error <= 1e-5
    assert fold_model(loaded, [])[1].blocks[0].strategy == S3_S1  # a quarter of the work of S3
    assert len(fold_blocks(loaded, {"base_net.7": S3}).graph.node) == 159


@pytest.mark.parametrize(
    ("path", "near_count", "conv_bn_count"),
    [
        ("fastestdet/FastestDet.onnx", 0, 0),
        ("light_person_detector/light_person_detector.onnx", 0, 0),
        ("mobilenet_v2_int8/mobilenet_v2_quant.onnx", 0, 0),
        ("nanodet_m/nanodet_m_320.onnx", 0, 0),
        ("yolox_nano/yolox_nano_416x416.onnx", 0, 0),
        ("yunet/yunet_n_320_320.onnx", 0, 0),
        ("ultraface/version-slim-320.onnx", 0, 25),
        ("resnet_cifar10/resnet20_cifar10.onnx", 9, 19),
        ("resnet_cifar10/resnet56_cifar10.onnx", 27, 55),
        ("onnx_light_structures/light_squeezenet.onnx", 0, 0),
    ],
)
def test_no_block_is_seen_where_branches_are_not_linear(
    path: str, near_count: int, conv_bn_count: int
) -> None:
    """Residual blocks are near misses; every Conv + BN folds."""
    loaded = load_model(MODELS / path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert len(findings.near_misses) == near_count
    assert all("Relu" in miss.reason for miss in findings.near_misses)
    folded, report = fold_model(loaded, [])
    assert report.conv_bn_count == conv_bn_count
    assert report.max_relative_error <= 1e-5
    if not conv_bn_count:
        assert folded is loaded
