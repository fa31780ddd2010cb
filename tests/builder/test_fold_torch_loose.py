"""BatchNorms outside blocks: folded where it is sure what they read, refused by name elsewhere."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.torch_front import fold_module, in_float64
from edgekit.builder.zoo.blocks import RepBlock
from edgekit.errors import ModelError


def lived_in(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.05, 3, generator=generator)
    return module.eval()


class Residual(nn.Module):
    """As in common model libraries: attributes in another order than the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2, self.bn1 = nn.BatchNorm2d(6), nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding="valid", bias=False)
        self.down = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.down(x))


def test_a_network_of_plain_torch_layers_is_folded_in_the_order_of_its_calls() -> None:
    """Module paths and the rest of the network stay as they are."""
    network = lived_in(nn.Sequential(Residual(), RepBlock(ConvGeometry.square(3), 6, 6)))
    folded = fold_module(network, probe_shape=(2, 4, 17, 17))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert isinstance(folded[0], Residual)
    assert folded[0].conv1.bias is not None
    x = torch.randn(2, 4, 17, 17)
    with torch.no_grad():
        want, got = in_float64(network)(x.double()), folded(x)
    assert float((want - got).abs().max() / want.abs().max()) <= 1e-5
    assert isinstance(network[0].bn1, nn.BatchNorm2d)


class Branching(nn.Module):
    """The convolution's own output is needed too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Reused(nn.Module):
    """One BatchNorm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(self.norm(self.one(x))))


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), "2"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), "0"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4)), "2"),
        (Branching(), "norm"),
        (Reused(), "norm"),
    ],
    ids=["after ReLU", "before", "1d", "branching", "reused"],
)
def test_a_batch_norm_with_no_convolution_of_its_own_is_refused_by_name(
    network: nn.Module, name: str
) -> None:
    """Unknown means stop: it would stay live without anybody having chosen that."""
    with pytest.raises(ModelError, match=f"^{name} is a BatchNorm outside any block"):
        fold_module(network.eval())


class Undecided(nn.Module):
    """What runs depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    """The order of attributes would be a guess."""
    with pytest.raises(ModelError, match=r"norm is a BatchNorm outside.*unknown: symbolic"):
        fold_module(Undecided().eval())


def test_numbers_that_cannot_be_folded_are_refused_by_name() -> None:
    """As inside blocks."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    network[1].running_var[0] = float("nan")
    with pytest.raises(ModelError, match=r"^1: a BatchNorm holds NaN"):
        fold_module(network)
