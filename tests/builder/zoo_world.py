"""What the tests of the zoo's networks share: a trained-looking net, its size, its ONNX form."""

import logging
import math
import warnings

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgekit.builder.compare import difference
from edgekit.builder.probe import run_proto
from edgekit.builder.zoo.blocks import BranchedConv
from edgekit.spec.fusion import parse_strategy

EVERY_BRANCH = parse_strategy("S3+Ss+Sp+S1+S3x3")
"""All that a network of the zoo may keep live, pools and middle kernels too."""


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` in evaluation mode, with BatchNorm statistics as after training."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            with torch.no_grad():
                norm.running_mean.normal_(0, 0.2, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
                norm.weight.mul_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
                norm.bias.normal_(0, 0.2, generator=generator)
    return module.eval()


def parameter_count(network: nn.Module) -> int:
    """Numbers that training learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def folded_parameter_count(network: nn.Module) -> int:
    """The same after every block became one convolution with bias."""
    count = parameter_count(network)
    for block in network.modules():
        if isinstance(block, BranchedConv):
            shape = block.geometry.weight_shape(block.in_count, block.out_count)
            count += math.prod(shape) + block.out_count - parameter_count(block)
    return count


def norm_channel_count(network: nn.Module) -> int:
    """Channels after each block: half of what one BatchNorm behind each would learn."""
    return sum(b.out_count for b in network.modules() if isinstance(b, BranchedConv))


def on_paper(family: type[nn.Module], **fields: object) -> nn.Module:
    """A network of full size without its numbers: shapes only, in no time."""
    with torch.device("meta"):
        return family(**fields).eval()


def folded_multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Of all convolutions and matrix products of a network on_paper, every block as one of them."""
    counted = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal counted
        if isinstance(module, BranchedConv):
            weights = math.prod(module.geometry.weight_shape(module.in_count, module.out_count))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            weights = module.weight.numel()
        else:
            return
        counted += output.numel() * weights // output.shape[1]

    inside = {
        id(part)
        for block in network.modules()
        if isinstance(block, BranchedConv)
        for part in block.branches.modules()
    }
    for module in network.modules():
        if id(module) not in inside:
            module.register_forward_hook(count)
    network(torch.zeros(shape, device="meta"))
    return counted


def images(*shape: int) -> Tensor:
    """Noise, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def exported(network: nn.Module, batch: Tensor) -> onnx.ModelProto:
    """What torch's exporter writes, opset 18."""
    for name in ("torch.onnx", "torch.export", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (batch,), input_names=["images"], opset_version=18, dynamo=True, verbose=False
        )
    assert program is not None
    return program.model_proto


def run_onnx(proto: onnx.ModelProto, batch: Tensor) -> list[np.ndarray]:
    """Outputs in ONNX Runtime, in the order of the graph."""
    outputs = run_proto(proto, {"images": batch.numpy()}, optimization="extended")
    return [outputs[value.name] for value in proto.graph.output]


def relative_error(want: Tensor, got: Tensor | np.ndarray) -> float:
    """max |got - want| / max |want|."""
    other = got.double().numpy() if isinstance(got, Tensor) else got.astype(np.float64)
    return difference(want.double().numpy(), other).relative_error


def kinds_of(network: nn.Module) -> set[str]:
    """All kinds of branches that a strategy may keep in this network."""
    blocks = [block for block in network.modules() if isinstance(block, BranchedConv)]
    return {kind for block in blocks for kind in block.kinds.values()}
