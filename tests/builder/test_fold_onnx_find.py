"""Which parts of an ONNX graph are blocks, and which only look like one."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.load import LoadedModel
from edgekit.errors import ModelError
from edgekit.spec.fusion import FusionRule, parse_strategy
from tests.branch_graphs import Graph, rep_block


def kinds(loaded: LoadedModel) -> list[tuple[str, ...]]:
    return [tuple(branch.kind for branch in block.branches) for block in find_blocks(loaded).blocks]


def folds_equal(loaded: LoadedModel, text: str = "S3") -> list[str]:
    """Types of the operators after folding; fold_model itself proves equality."""
    folded, report = fold_model(loaded, [FusionRule(strategy=parse_strategy(text))])
    assert report.max_relative_error <= 1e-5
    return [node.op_type for node in folded.proto.graph.node]


def test_three_branches_meet_in_two_adds(tmp_path: Path) -> None:
    """RepVGG as exported with its BatchNorms."""
    graph = Graph()
    loaded = graph.loaded(rep_block(graph), tmp_path)
    (block,) = find_blocks(loaded).blocks
    assert [branch.kind for branch in block.branches] == ["3x3", "1x1", "identity"]
    assert (block.kind, block.inputs, len(block.ops), block.added) == ("sum", ("x",), 7, ())
    assert (block.in_count, block.out_count, block.live_kinds) == (4, 4, ("1x1", "identity"))
    assert folds_equal(loaded) == ["Conv", "Relu"]


def test_the_main_branch_is_the_largest_wherever_it_stands(tmp_path: Path) -> None:
    """GoogLeNet-like: 1x1, 3x3, 7x7 and 5x5, in one Sum."""
    graph = Graph(size=12)
    terms = [graph.conv_norm("x", 4, size) for size in (1, 3, 7, 5)]
    loaded = graph.loaded(graph.op("Sum", terms), tmp_path)
    assert kinds(loaded) == [("7x7", "1x1", "3x3", "5x5")]
    assert folds_equal(loaded, "S3+S1+S3x3") == ["Conv", "Conv", "Conv", "Add", "Add", "Relu"]


def test_copies_of_depthwise_and_pointwise_convolutions(tmp_path: Path) -> None:
    """MobileOne: depthwise copies + scale + identity, then pointwise copies + identity."""
    graph = Graph()
    depthwise = [graph.conv_norm("x", 4, 3, groups=4) for _ in range(2)]
    scale = graph.conv_norm("x", 4, 1, groups=4)
    one = graph.op("Relu", [graph.op("Sum", [*depthwise, scale, graph.norm("x")])])
    pointwise = [graph.conv_norm(one, 4, 1) for _ in range(3)]
    loaded = graph.loaded(graph.op("Sum", [*pointwise, graph.norm(one)]), tmp_path)
    assert kinds(loaded) == [
        ("3x3", "copy", "1x1", "identity"),
        ("1x1", "copy", "copy", "identity"),
    ]
    assert folds_equal(loaded) == ["Conv", "Relu", "Conv", "Relu"]


def test_a_depthwise_1x1_beside_a_dense_kernel_is_an_identity(tmp_path: Path) -> None:
    """What S3+Ss writes is found again, under the same name of strategy."""
    graph = Graph()
    loaded = graph.loaded(rep_block(graph), tmp_path)
    once, _ = fold_model(loaded, [FusionRule(strategy=parse_strategy("S3+Ss"))])
    assert kinds(once) == [("3x3", "identity")]
    assert folds_equal(once) == ["Conv", "Relu"]


def test_a_batch_norm_behind_the_sum_belongs_to_the_block(tmp_path: Path) -> None:
    """QARepVGG: 1x1 and identity are bare, a BatchNorm follows the sum."""
    graph = Graph()
    total = graph.op("Add", [graph.conv_norm("x"), graph.conv("x", 4, 1)])
    loaded = graph.loaded(graph.norm(graph.op("Add", [total, "x"])), tmp_path)
    assert kinds(loaded) == [("3x3", "1x1", "identity")]
    assert folds_equal(loaded) == ["Conv", "Relu"]
    assert folds_equal(loaded, "S3+Ss+S1").count("Conv") == 3


def test_a_block_inside_a_residual_connection_keeps_the_connection(tmp_path: Path) -> None:
    """The skip comes from elsewhere: it is added to the folded block, in any order of adding."""
    for order in ((0, 1, 2), (2, 0, 1), (0, 2, 1)):
        graph = Graph()
        inner = graph.op("Relu", [graph.conv_norm("x")])
        terms = [graph.conv_norm(inner), graph.conv_norm(inner, 4, 1), "x"]
        first, second, third = (terms[position] for position in order)
        loaded = graph.loaded(graph.op("Add", [graph.op("Add", [first, second]), third]), tmp_path)
        assert kinds(loaded) == [("3x3", "1x1")]
        assert folds_equal(loaded) == ["Conv", "Relu", "Conv", "Add", "Relu"]


def test_two_blocks_in_one_sum_are_two(tmp_path: Path) -> None:
    """A residual stage whose shortcut is a block too."""
    graph = Graph()
    inner = graph.op("Relu", [graph.conv_norm("x")])
    blocks = [
        graph.op("Add", [graph.conv_norm(source), graph.conv_norm(source, 4, 1)])
        for source in (inner, "x")
    ]
    loaded = graph.loaded(graph.op("Add", blocks), tmp_path)
    assert kinds(loaded) == [("3x3", "1x1"), ("3x3", "1x1")]
    assert folds_equal(loaded).count("Conv") == 3


def test_a_nested_sum_is_one_block(tmp_path: Path) -> None:
    """(3x3 + 1x1) with a BatchNorm of its own, + identity: the shift is applied once."""
    graph = Graph()
    inner = graph.norm(
        graph.op("Add", [graph.conv("x", bias=True), graph.conv("x", 4, 1, bias=True)])
    )
    loaded = graph.loaded(graph.op("Add", [inner, graph.norm("x")]), tmp_path)
    assert kinds(loaded) == [("3x3", "1x1", "identity")]
    for text in ("S3", "S3+Ss", "S3+S1", "S3+Ss+S1"):
        folds_equal(loaded, text)


def test_a_skip_over_one_linear_convolution_is_a_block(tmp_path: Path) -> None:
    """x + conv(x), as in positional encodings."""
    graph = Graph()
    loaded = graph.loaded(graph.op("Add", ["x", graph.conv("x", groups=4, bias=True)]), tmp_path)
    assert kinds(loaded) == [("3x3", "identity")]
    assert folds_equal(loaded) == ["Conv", "Relu"]
    assert folds_equal(loaded, "S3+Ss") == ["Conv", "Add", "Relu"]


def test_a_residual_block_with_an_activation_is_none(tmp_path: Path) -> None:
    """ResNet: conv, ReLU, conv, + x. The near miss says which operator stands in the way."""
    graph = Graph()
    inner = graph.op("Relu", [graph.conv_norm("x")])
    loaded = graph.loaded(graph.op("Add", [graph.conv_norm(inner), "x"]), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    (miss,) = findings.near_misses
    assert miss.reason == f"Relu (Relu_{inner}) inside a branch"
    with pytest.raises(ModelError, match="looks like a block, but cannot be folded: Relu"):
        fold_model(loaded, [FusionRule(strategy=parse_strategy("S3"), blocks=miss.name)])
    assert folds_equal(loaded).count("Conv") == 2


def test_an_activation_in_one_branch_leaves_that_branch_out(tmp_path: Path) -> None:
    """The other two still fold, and the block says what was left out."""
    graph = Graph()
    crooked = graph.conv_norm(graph.op("Relu", [graph.conv("x", 4, 1)]), 4, 1)
    total = graph.op("Sum", [graph.conv_norm("x"), crooked, graph.norm("x")])
    loaded = graph.loaded(total, tmp_path)
    (block,) = find_blocks(loaded).blocks
    assert [branch.kind for branch in block.branches] == ["3x3", "identity"]
    assert block.added == (crooked,)
    assert "Relu" in block.note
    assert folds_equal(loaded).count("Conv") == 3


def test_two_large_kernels_in_a_row_are_no_branch(tmp_path: Path) -> None:
    """conv(conv(x)) + x is linear, but no single convolution of ours."""
    graph = Graph()
    twice = graph.conv("x", pad=0)
    twice = graph.conv(twice, pad=2)
    loaded = graph.loaded(graph.op("Add", [twice, "x"]), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert "both reach" in findings.near_misses[0].reason


def test_a_bias_before_a_padded_kernel_is_told(tmp_path: Path) -> None:
    """1x1 + BN, then a padded 3x3: wrong at the border, so it is left out."""
    graph = Graph()
    branch = graph.conv_norm(graph.conv_norm("x", 4, 1))
    loaded = graph.loaded(graph.op("Add", [branch, "x"]), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert "border" in findings.near_misses[0].reason


def test_a_separable_pair_that_would_grow_is_no_block(tmp_path: Path) -> None:
    """x + pointwise(depthwise(x)) as one dense 3x3 is nearly six times the work."""
    graph = Graph(channels=16)
    branch = graph.conv(graph.conv("x", 16, 3, groups=16), 16, 1)
    loaded = graph.loaded(graph.op("Add", [branch, "x"]), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert "5.8 times the work" in findings.near_misses[0].reason


def test_branches_of_other_size_or_stride_are_told(tmp_path: Path) -> None:
    """Equal output sizes, other strides: 3x3 with stride 2 beside an unpadded large kernel."""
    graph = Graph(size=9)
    strided = graph.conv("x", stride=2)
    large = graph.conv("x", 4, 5, pad=0)
    loaded = graph.loaded(graph.op("Add", [strided, large]), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert "stride" in findings.near_misses[0].reason or "place" in findings.near_misses[0].reason


def test_a_broadcast_add_is_no_sum_of_branches(tmp_path: Path) -> None:
    """A pooled branch of one pixel that is added to every pixel."""
    graph = Graph()
    pooled = graph.conv(graph.op("GlobalAveragePool", ["x"]), 4, 1)
    loaded = graph.loaded(graph.op("Add", [graph.conv("x"), pooled]), tmp_path)
    assert kinds(loaded) == []


def test_a_tensor_that_others_read_is_not_folded_away(tmp_path: Path) -> None:
    """A model output, or a second reader, inside the block."""
    graph = Graph()
    dense, point = graph.conv_norm("x"), graph.conv_norm("x", 4, 1)
    total = graph.op("Add", [dense, point])
    graph.op("Sigmoid", [point], "side")
    loaded = graph.loaded(graph.op("Add", [total, graph.norm("x")]), tmp_path, "side")
    (block,) = find_blocks(loaded).blocks
    assert [branch.kind for branch in block.branches] == ["3x3", "identity"]
    assert block.added == (point,)
    folds_equal(loaded)

    graph = Graph()
    dense = graph.conv_norm("x")
    loaded = graph.loaded(graph.op("Add", [dense, graph.norm("x")]), tmp_path, dense)
    assert kinds(loaded) == []
    folds_equal(loaded)


def test_weights_that_the_graph_makes_itself_are_weights(tmp_path: Path) -> None:
    """As in the "light" models: ConstantOfShape."""
    graph = Graph()
    value = numpy_helper.from_array(np.array([0.25], np.float32))
    graph.weights["shape"] = np.array([4, 4, 3, 3], np.int64)
    graph.nodes.append(helper.make_node("ConstantOfShape", ["shape"], ["made"], value=value))
    dense = graph.op("Conv", ["x", "made"], pads=[1, 1, 1, 1])
    loaded = graph.loaded(graph.op("Add", [graph.norm(dense), graph.norm("x")]), tmp_path)
    assert kinds(loaded) == [("3x3", "identity")]
    assert folds_equal(loaded) == ["Conv", "Relu"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_is_resolved(tmp_path: Path, mode: str) -> None:
    """Older exporters leave the padding to the runtime."""
    graph = Graph()
    dense = graph.conv("x", auto_pad=mode)
    pad = 0 if mode == "VALID" else 2
    other = graph.conv("x", 4, 5 if pad else 3, pad=pad)
    loaded = graph.loaded(graph.op("Add", [graph.norm(dense), other]), tmp_path)
    assert len(kinds(loaded)) == 1
    assert folds_equal(loaded) == ["Conv", "Relu"]


def test_padding_of_one_side_is_left_alone(tmp_path: Path) -> None:
    """SAME with stride 2 on an even size pads one side more: no symmetric kernel is equal."""
    graph = Graph(size=8)
    dense = graph.conv("x", stride=2, auto_pad="SAME_UPPER")
    point = graph.conv("x", 4, 1, stride=2)
    loaded = graph.loaded(graph.op("Add", [graph.norm(dense), point]), tmp_path)
    findings = find_blocks(loaded)
    assert findings.blocks == ()
    assert "padded differently" in findings.near_misses[0].reason
    assert folds_equal(loaded).count("BatchNormalization") == 0


def test_linear_branches_through_a_concatenation(tmp_path: Path) -> None:
    """UltraFace's RFB: dilated branches over several tensors, Concat, 1x1 + BN, + shortcut."""
    graph = Graph(size=12)
    parts = [
        graph.conv_norm(graph.op("Relu", [graph.conv("x", 4, 1)]), 6, dilation=dilation)
        for dilation in (2, 3)
    ]
    joined = graph.op("Concat", parts, axis=1)
    total = graph.op("Add", [graph.conv_norm(joined, 8, 1, reads=12), graph.conv_norm("x", 8, 1)])
    loaded = graph.loaded(total, tmp_path)
    (block,) = find_blocks(loaded).blocks
    assert (block.kind, len(block.inputs), block.live_kinds) == ("concat", 2, ("1x1",))
    assert (block.in_count, block.out_count) == (4, 8)
    assert "Concat" not in folds_equal(loaded)
    assert "Concat" in folds_equal(loaded, "S3+S1")


@pytest.mark.parametrize(("out", "strategy"), [(2, "S3"), (16, "S3+S1")])
def test_unasked_a_block_gets_the_strategy_of_least_work(
    tmp_path: Path, out: int, strategy: str
) -> None:
    """A 1x1 to many channels is cheaper behind the 3x3 kernels than in each of their taps."""
    graph = Graph()
    joined = graph.op("Concat", [graph.conv_norm("x"), graph.conv_norm("x")], axis=1)
    loaded = graph.loaded(graph.conv_norm(joined, out, 1, reads=8), tmp_path)
    assert str(fold_model(loaded, [])[1].blocks[0].strategy) == strategy
    forced = fold_model(loaded, [FusionRule(strategy=parse_strategy("S3"))])[1]
    assert str(forced.blocks[0].strategy) == "S3"


def test_a_concatenation_of_activations_is_none(tmp_path: Path) -> None:
    """As in most detectors: nothing to find, and nothing to tell."""
    graph = Graph()
    parts = [graph.op("Relu", [graph.conv_norm("x")]) for _ in range(2)]
    joined = graph.op("Concat", parts, axis=1)
    loaded = graph.loaded(graph.conv_norm(joined, 4, 1, reads=8), tmp_path)
    assert find_blocks(loaded) == type(find_blocks(loaded))(blocks=(), near_misses=())


def test_a_very_deep_linear_graph_is_read_in_bounded_depth(tmp_path: Path) -> None:
    """No recursion error on hundreds of scales in a row."""
    graph = Graph(size=3)
    name = "x"
    half = graph.weight(np.array(0.999))
    for _ in range(400):
        name = graph.op("Mul", [name, half])
    loaded = graph.loaded(graph.op("Add", [graph.conv("x"), name]), tmp_path)
    assert kinds(loaded) == []


def test_a_very_long_chain_of_sums_is_read_in_bounded_time(tmp_path: Path) -> None:
    """Dense connections: hundreds of Adds, most of them of other things."""
    graph = Graph(size=3)
    name = graph.op("Relu", ["x"])
    for _ in range(300):
        name = graph.op("Add", [name, "x"])
    loaded = graph.loaded(graph.op("Add", [graph.conv("x"), name]), tmp_path)
    assert len(kinds(loaded)) <= 1
    folds_equal(loaded)
