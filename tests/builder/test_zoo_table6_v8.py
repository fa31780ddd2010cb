"""The detector of Table VI with YOLOv8s' neck and head: its size, its levels, its distances."""

import pytest
import torch
from torch import nn

from edgekit.builder.fold.torch_front import fold_module, in_float64
from edgekit.builder.zoo.detector import Detector
from edgekit.builder.zoo.table6 import Table6Detector
from edgekit.builder.zoo.table6_v8 import (
    LENGTH_COUNT,
    STRIDES,
    C2f,
    Table6V8Detector,
    _MeanLength,
)
from edgekit.errors import ModelError
from edgekit.spec.fusion import S3_SS, STRATEGIES
from tests.builder.zoo_world import (
    exported,
    images,
    lived_in,
    on_paper,
    parameter_count,
    relative_error,
    run_onnx,
)

DFL_PARAMETERS = LENGTH_COUNT
"""YOLOv8 counts the lengths 0 to 15 as parameters; nobody trains them."""


def tiny(seed: int = 0) -> Table6V8Detector:
    return Table6V8Detector(width=0.125, depth=0.2, class_count=3, seed=seed)


@pytest.mark.parametrize(("class_count", "published"), [(1, 2_116_435), (80, 2_147_008)])
def test_the_head_at_width_one_is_that_of_yolov8s(class_count: int, published: int) -> None:
    """To the last parameter, as Ultralytics prints it for a head over 128, 256, 512 channels."""
    detector = on_paper(Table6V8Detector, width=1.0, class_count=class_count)
    assert parameter_count(detector.heads) + DFL_PARAMETERS == published


def test_the_neck_at_width_one_is_that_of_yolov8s() -> None:
    """Where the narrower backbone does not enter: the two strided convolutions, and a C2f."""
    neck = on_paper(Table6V8Detector, width=1.0).neck
    assert [parameter_count(conv) for conv in neck.shrink] == [147_712, 590_336]
    assert parameter_count(neck.climb[0]) == 493_056
    assert parameter_count(C2f(768, 512)) == 1_969_152


@pytest.mark.parametrize(("width", "count"), [(0.25, 818_734), (0.5, 2_631_598), (1.0, 9_614_486)])
def test_the_three_widths_have_the_sizes_we_print(width: float, count: int) -> None:
    """Trained parameters with 2 classes; the slim detector has 312,186 at width 0.25."""
    assert parameter_count(on_paper(Table6V8Detector, width=width)) == count


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_the_backbone_is_that_of_the_slim_detector(width: float) -> None:
    """One Table VI: weights of one backbone fit the other."""
    v8, slim = (on_paper(kind, width=width).backbone for kind in (Table6V8Detector, Table6Detector))
    assert {k: v.shape for k, v in v8.state_dict().items()} == {
        k: v.shape for k, v in slim.state_dict().items()
    }


def test_each_level_answers_for_its_cells() -> None:
    """The interface that export, checkpoints and training have in common with the slim detector."""
    detector = tiny().eval()
    assert isinstance(detector, Detector)
    assert detector.strides == STRIDES == (8, 16, 32)
    assert detector.config.input_shape == (1, 3, 416, 640)
    with torch.no_grad():
        levels, decoded = detector(images(2, 3, 64, 96)), detector.decoded(images(2, 3, 64, 96))
        raw = detector.distributions(images(2, 3, 64, 96))
    for (distances, kinds), (lengths, same), stride in zip(levels, raw, STRIDES, strict=True):
        cells = (64 // stride, 96 // stride)
        assert (distances.shape, kinds.shape) == ((2, 4, *cells), (2, 3, *cells))
        assert lengths.shape == (2, 64, *cells)
        assert torch.equal(kinds, same)
    assert decoded.shape == (2, 7, 8 * 12 + 4 * 6 + 2 * 3)


def test_a_distance_is_the_mean_of_its_distribution() -> None:
    """Side 1 is certain of 5 cells, side 2 in doubt between 2 and 4, the others know nothing."""
    logits = torch.zeros(1, 4, LENGTH_COUNT, 2, 3)
    logits[:, 1, 5, 1, 2] = 100.0
    logits[:, 2, 2, 1, 2] = logits[:, 2, 4, 1, 2] = 100.0
    distances = _MeanLength()(logits.reshape(1, 64, 2, 3))
    assert distances.shape == (1, 4, 2, 3)
    assert distances[0, :, 1, 2].tolist() == pytest.approx([7.5, 5.0, 3.0, 7.5])
    assert distances[0, :, 0, 0].tolist() == pytest.approx([7.5] * 4)


def test_before_training_boxes_are_undecided_and_everything_is_background() -> None:
    """Losses start from there: 7.5 cells, 1 %."""
    with torch.no_grad():
        levels = lived_in(tiny())(images(1, 3, 64, 64))
    for distances, kinds in levels:
        assert 5 < distances.mean() < 10
        assert -6 < kinds.mean() < -3


def test_every_strategy_gives_the_function_that_was_trained() -> None:
    """Distances and classes of all levels; only the backbone has branches to keep."""
    detector = lived_in(tiny())
    batch = images(1, 3, 64, 96)
    with torch.no_grad():
        wants = in_float64(detector)(batch.double())
        counts = []
        for strategy in STRATEGIES:
            folded = fold_module(detector, strategy=strategy)
            counts.append(parameter_count(folded))
            assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
            for want, got in zip(wants, folded(batch), strict=True):
                assert relative_error(want[0], got[0]) <= 1e-5
                assert relative_error(want[1], got[1]) <= 1e-5
    assert counts == sorted(set(counts))


def test_it_answers_in_onnx_as_in_torch() -> None:
    """Chunk, softmax over lengths and the mean survive the exporter; shortcuts stay live here."""
    detector = lived_in(tiny())
    batch = images(1, 3, 64, 64)
    with torch.no_grad():
        wants = [tensor for level in in_float64(detector)(batch.double()) for tensor in level]
    gots = run_onnx(exported(fold_module(detector, strategy=S3_SS), batch), batch)
    for want, got in zip(wants, gots, strict=True):
        assert relative_error(want, got) <= 1e-5


def test_one_seed_gives_one_set_of_weights_and_leaves_the_global_seed_alone() -> None:
    """Training is deterministic; building a network must not shift anybody's random numbers."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = (tiny(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_all_weights_learn() -> None:
    """Through the distributions, as the loss will see them."""
    detector = tiny()
    levels = detector.distributions(images(2, 3, 64, 64))
    sum(lengths.square().sum() + kinds.square().sum() for lengths, kinds in levels).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_an_image_of_a_wrong_size_is_refused_with_the_nearest_right_one() -> None:
    """torch would complain about a Concat deep in the neck."""
    with pytest.raises(ModelError, match=r"640x400 px.*use 640x384"):
        tiny()(torch.zeros(1, 3, 400, 640))


@pytest.mark.parametrize("fields", [{"width": 0.0}, {"class_count": 0}, {"seed": -1}], ids=str)
def test_a_configuration_that_builds_no_network_is_refused(fields: dict[str, float]) -> None:
    """It may come from a damaged checkpoint."""
    with pytest.raises(ModelError):
        Table6V8Detector(**fields)
