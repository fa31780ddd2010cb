"""A torch network that is known only as an ONNX file gives back its blocks, one by one."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekit.builder.compare import difference
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.fold.torch_front import fold_module
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.builder.zoo.blocks import (
    BranchedConv,
    ConvBlock,
    MobileOneBlock,
    QaRepBlock,
    RepBlock,
    pointwise_first_branch,
    pool_branch,
)
from edgekit.spec.fusion import STRATEGIES, FusionRule, FusionStrategy

SHAPE = (1, 3, 20, 24)


class Net(nn.Module):
    """One block of every family, plain convolutions between them, a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        square = ConvGeometry.square
        self.stem = RepBlock(square(3, stride=2), 3, 8)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(RepBlock(square(3), 8, 8), QaRepBlock(square(3), 8, 8)),
                nn.Sequential(
                    MobileOneBlock(square(3, groups=8), 8, 8, copies=2),
                    MobileOneBlock(square(1), 8, 12, copies=3),
                ),
                nn.Sequential(ConvBlock(square(1), 12, 12), _diverse(square(3), 12)),
            ]
        )
        self.inner = RepBlock(square(5, groups=2), 12, 12, relu=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        x = torch.relu(x + self.inner(torch.sigmoid(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def _diverse(geometry: ConvGeometry, channels: int) -> BranchedConv:
    branches = {
        "pool": pool_branch(geometry, channels),
        "pair": pointwise_first_branch(geometry, channels, channels, channels),
        "row": nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
        "dense": nn.Conv2d(channels, channels, 3, padding=1),
    }
    return BranchedConv(geometry, channels, channels, branches)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return made


def _legacy(net: nn.Module, path: Path) -> None:
    """Folds conv + BN where it can; the identity BatchNorms stay."""
    torch.onnx.export(net, (torch.zeros(SHAPE),), str(path), dynamo=False, opset_version=17)


def _legacy_with_norms(net: nn.Module, path: Path) -> None:
    """Keeps every BatchNorm, in evaluation mode."""
    torch.onnx.export(
        net, (torch.zeros(SHAPE),), str(path), dynamo=False, opset_version=17,
        do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip


def _current(net: nn.Module, path: Path) -> None:
    """The exporter by default: opset 18, conv + BN folded, names without modules."""
    torch.onnx.export(
        net, (torch.zeros(SHAPE),), str(path), dynamo=True, opset_version=18, verbose=False
    )


@pytest.fixture(scope="module", params=[_legacy, _legacy_with_norms, _current])
def loaded(
    request: pytest.FixtureRequest, net: Net, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    export: Callable[[nn.Module, Path], None] = request.param
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        export(net, path)
    return load_model(path)


def blocks_of(net: nn.Module) -> dict[str, BranchedConv]:
    """The blocks with branches, in the order in which they run."""
    found = {n: m for n, m in net.named_modules() if isinstance(m, BranchedConv)}
    return {name: block for name, block in found.items() if len(block.branches) > 1}


def test_every_block_is_recovered_with_its_kinds_of_branches(net: Net, loaded: LoadedModel) -> None:
    """Same number, same order, same choices; names that contain the module's path."""
    findings = find_blocks(loaded)
    wanted = blocks_of(net)
    assert len(findings.blocks) == len(wanted)
    for found, (name, block) in zip(findings.blocks, wanted.items(), strict=True):
        assert found.name.startswith(name)
        assert sorted(branch.kind for branch in found.optional) == sorted(block.kinds.values())
        assert (found.in_count, found.out_count) == (block.in_count, block.out_count)
        assert found.geometry == block.geometry


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_strategy_gives_the_outputs_of_torch(
    net: Net, loaded: LoadedModel, strategy: FusionStrategy
) -> None:
    """Unfolded in torch in float64, folded by torch, and folded as ONNX."""
    folded, report = fold_model(loaded, [FusionRule(strategy=strategy)])
    onnx.checker.check_model(folded.proto, full_check=True)
    assert len(report.blocks) == len(blocks_of(net))
    given = seeded_inputs(loaded.inputs, 3)
    (image,) = given.values()
    (got,) = run_proto(folded.proto, given, optimization="all").values()
    with torch.no_grad():
        want = _double(net)(torch.from_numpy(image).double()).numpy()
        other = fold_module(net, strategy=strategy)(torch.from_numpy(image)).numpy()
    assert difference(want, got.astype(np.float64)).relative_error <= 1e-5
    assert difference(other, got).relative_error <= 1e-5
    kinds = [node.op_type for node in folded.proto.graph.node]
    assert "BatchNormalization" not in kinds
    live = sum(
        strategy.keeps(kind) for block in blocks_of(net).values() for kind in block.kinds.values()
    )
    assert sum(block.live_count for block in report.blocks) == live


def test_the_same_file_gives_the_same_bytes(loaded: LoadedModel) -> None:
    """Folded models are shipped by digest."""
    rules = [FusionRule(strategy=STRATEGIES[1])]
    first, second = (fold_model(loaded, rules)[0] for _ in range(2))
    assert to_bytes(first.proto) == to_bytes(second.proto)
    assert first.proto.ir_version == 8
    assert [(entry.domain, entry.version) for entry in first.proto.opset_import] == [("", 17)]
    names = [tensor.name for tensor in first.proto.graph.initializer]
    assert names == sorted(names)


def test_what_leaves_a_block_keeps_its_name(loaded: LoadedModel) -> None:
    """A cut by tensor name means the same under every strategy."""
    blocks = find_blocks(loaded).blocks
    for strategy in STRATEGIES:
        folded, _ = fold_model(loaded, [FusionRule(strategy=strategy)])
        assert all(
            folded.activations[one.output] == loaded.activations[one.output] for one in blocks
        )


def _double(net: nn.Module) -> nn.Module:
    twin = Net()
    twin.load_state_dict(net.state_dict())
    return twin.double().eval()
