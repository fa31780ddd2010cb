"""Every classifier of the zoo under every strategy: torch, folded and ONNX are one function."""

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekit.builder.export import export_module
from edgekit.builder.fold.torch_front import fold_module, in_float64, relative_error
from edgekit.builder.probe import run_proto
from edgekit.builder.zoo.registry import ARCHITECTURES, build
from edgekit.spec.fusion import S3_SS_S1, STRATEGIES

SIZE_PX = 64
CLASSIFIERS = [name for name, entry in ARCHITECTURES.items() if entry.task == "classifier"]
QUICK = {"repvgg-a0", "rep-resnet-18", "mobileone-s0"}
LIMIT = 1e-5


def trained(name: str) -> nn.Module:
    """Narrow, and with BatchNorm statistics of some batches, as after a little training."""
    network = build(name, width=0.25, class_count=10, input_shape=(1, 3, SIZE_PX, SIZE_PX))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.mul_(1 + 0.2 * torch.randn(norm.weight.shape, generator=generator))
                norm.bias.add_(0.1 * torch.randn(norm.bias.shape, generator=generator))
        for _ in range(3):
            network(torch.rand((8, 3, SIZE_PX, SIZE_PX), generator=generator))
    return network.eval()


def images() -> Tensor:
    return torch.rand((1, 3, SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(7))


def answers(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(x)
    return result


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CLASSIFIERS],
)
def test_folded_networks_answer_as_the_trained_one(name: str) -> None:
    """In torch, in float32, whatever stays live."""
    network = trained(name)
    want = answers(in_float64(network), images().double())
    for strategy in STRATEGIES:
        folded = fold_module(network, strategy=strategy)
        assert relative_error(want, answers(folded, images())) <= LIMIT, str(strategy)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_exported_networks_answer_as_the_trained_one(name: str) -> None:
    """In ONNX Runtime at both levels that are used, and with the same number of operators as S3
    plus those that stay live."""
    network = trained(name)
    want = answers(in_float64(network), images().double())
    forms = [fold_module(network, strategy=strategy) for strategy in STRATEGIES]
    counts = {}
    for label, form in zip([*map(str, STRATEGIES), "trained"], [*forms, network], strict=True):
        data = export_module(form, (1, 3, SIZE_PX, SIZE_PX), fold=False)
        proto = onnx.load_model_from_string(data)
        counts[label] = len(proto.graph.node)
        for level in ("extended", "all"):
            got = run_proto(proto, {"images": images().numpy()}, optimization=level)["logits"]
            assert relative_error(want, torch.from_numpy(got)) <= LIMIT, (label, level)
    assert counts["S3"] < counts["S3+Ss"] < counts[str(S3_SS_S1)] <= counts["trained"]
    assert counts["S3"] < counts["S3+S1"] < counts[str(S3_SS_S1)]
