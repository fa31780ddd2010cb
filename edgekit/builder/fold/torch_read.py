"""Read the branches of a torch block as kernels, and write kernels back as torch layers.

In:  a branch: a chain of Conv2d, BatchNorm2d, AvgPool2d and Identity.  Out: its Kernel, if it is to
be folded; or fewer layers of the same function, if it stays live.
Numbers are float64 in between; torch modules that are given are never changed.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.builder.fold.algebra import (
    BatchNorm,
    Floats,
    Kernel,
    fold_batch_norm,
    identity_kernel,
)
from edgekit.builder.fold.geometry import ConvGeometry, Pair
from edgekit.builder.fold.grouping import regroup
from edgekit.builder.fold.merge import average_pool_kernel
from edgekit.builder.fold.sequence import merge_in_sequence
from edgekit.builder.zoo.blocks import bare_conv, layers_of
from edgekit.errors import ModelError

Step = Kernel | nn.AvgPool2d
"""One layer of a branch after each BatchNorm went into what stands before it."""


def branch_kernel(
    branch: nn.Module, in_count: int, geometry: ConvGeometry, after: BatchNorm | None
) -> Kernel:
    """A whole branch as one kernel with the groups of ``geometry``.

    ``after`` is the BatchNorm over the block's sum as far as this branch meets it.
    Raises: ModelError if a layer is not linear, or no single convolution is equal.
    """
    steps = _steps(branch, in_count, after)
    total = _kernel_of(steps[0], in_count) if steps else _depthwise_identity(in_count)
    for step in steps[1:]:
        total = merge_in_sequence(total, _kernel_of(step, len(total.bias)))
    if total.geometry.groups == geometry.groups:
        return total
    return regroup(total, geometry.groups)


def live_branch(branch: nn.Module, in_count: int, after: BatchNorm | None) -> nn.Module:
    """A branch that stays live: its layers, every BatchNorm folded into the convolution before it.

    A BatchNorm without one, such as that of an identity, becomes a depthwise 1x1 convolution,
    which runtimes execute faster than BatchNormalization and can quantize.
    Raises: ModelError if a layer is not linear.
    """
    steps = _steps(branch, in_count, after)
    if not steps:
        return nn.Identity()
    layers = [conv_of(step) if isinstance(step, Kernel) else step for step in steps]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def conv_kernel(conv: nn.Conv2d) -> Kernel:
    """A torch convolution as a kernel. Raises: ModelError if it does not pad with zeros."""
    return Kernel(
        geometry=ConvGeometry(
            kernel=_pair(conv.kernel_size),
            stride=_pair(conv.stride),
            padding=_padding(conv),
            dilation=_pair(conv.dilation),
            groups=conv.groups,
        ),
        weight=_array(conv.weight),
        bias=np.zeros(conv.out_channels) if conv.bias is None else _array(conv.bias),
    )


def conv_of(kernel: Kernel) -> nn.Conv2d:
    """A kernel as a torch convolution with bias, float32; here the numbers are rounded."""
    conv = bare_conv(kernel.geometry, kernel.in_count, len(kernel.bias), bias=True)
    assert conv.bias is not None, "asked for one"
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(kernel.weight.astype(np.float32)))
        conv.bias.copy_(torch.from_numpy(kernel.bias.astype(np.float32)))
    return conv


def batch_norm(norm: nn.BatchNorm2d) -> BatchNorm:
    """What a torch BatchNorm does in evaluation mode. Raises: ModelError if it has no such mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError(
            "a BatchNorm keeps no running statistics, so it has no evaluation mode to fold",
            hint="train it with track_running_stats=True",
        )
    channels = norm.num_features
    return BatchNorm(
        gamma=np.ones(channels) if norm.weight is None else _array(norm.weight),
        beta=np.zeros(channels) if norm.bias is None else _array(norm.bias),
        mean=_array(norm.running_mean),
        variance=_array(norm.running_var),
        epsilon=float(norm.eps),
    )


def without_shift(norm: BatchNorm) -> BatchNorm:
    """Only the scale of a BatchNorm: what all branches under it but one meet."""
    zero = np.zeros_like(norm.mean)
    return replace(norm, mean=zero, beta=zero)


def _steps(branch: nn.Module, in_count: int, after: BatchNorm | None) -> Sequence[Step]:
    """The layers of a branch without BatchNorm; none for a bare identity."""
    steps: list[Step] = []
    for layer in layers_of(branch):
        if isinstance(layer, nn.Conv2d):
            steps.append(conv_kernel(layer))
        elif isinstance(layer, nn.AvgPool2d):
            steps.append(layer)
        elif isinstance(layer, nn.BatchNorm2d):
            _append_norm(steps, batch_norm(layer), in_count)
        elif not isinstance(layer, nn.Identity):
            raise ModelError(
                f"it holds a {type(layer).__name__}, which is no convolution, BatchNorm, average "
                "pool or identity",
                hint="keep activations behind the sum of the branches, where they do not stop the "
                "fold",
            )
    if after is not None:
        _append_norm(steps, after, in_count)
    return steps


def _append_norm(steps: list[Step], norm: BatchNorm, in_count: int) -> None:
    if steps and isinstance(steps[-1], Kernel):
        steps[-1] = fold_batch_norm(steps[-1], norm)
        return
    kernels = [step for step in steps if isinstance(step, Kernel)]
    count = len(kernels[-1].bias) if kernels else in_count
    steps.append(fold_batch_norm(_depthwise_identity(count), norm))


def _depthwise_identity(channel_count: int) -> Kernel:
    return identity_kernel(channel_count, ConvGeometry.square(1, groups=channel_count))


def _kernel_of(step: Step, channel_count: int) -> Kernel:
    if isinstance(step, Kernel):
        return step
    if step.ceil_mode or step.divisor_override is not None:
        raise ModelError(
            "an average pool with ceil_mode or divisor_override is no convolution",
            hint="train it without, or keep this branch live",
        )
    geometry = ConvGeometry(
        kernel=_pair(step.kernel_size),
        stride=_pair(step.stride),
        padding=_pair(step.padding),
        groups=channel_count,
    )
    return average_pool_kernel(channel_count, geometry, count_include_pad=step.count_include_pad)


def _padding(conv: nn.Conv2d) -> Pair:
    if conv.padding_mode != "zeros":
        raise ModelError(
            f"a convolution pads with {conv.padding_mode!r} instead of zeros",
            hint="train it with padding_mode='zeros'",
        )
    if not isinstance(conv.padding, str):
        return _pair(conv.padding)
    if conv.padding == "valid":
        return (0, 0)
    rows, columns = (
        dilation * (size - 1)
        for dilation, size in zip(_pair(conv.dilation), _pair(conv.kernel_size), strict=True)
    )
    if rows % 2 or columns % 2:
        raise ModelError(
            f"a {conv.kernel_size} kernel padded to the 'same' size has more padding on one side",
            hint="use an odd kernel",
        )
    return rows // 2, columns // 2


def _pair(value: int | tuple[int, ...]) -> Pair:
    if isinstance(value, int):
        return value, value
    rows, columns = value
    return int(rows), int(columns)


def _array(value: Tensor) -> Floats:
    array: Floats = value.detach().cpu().double().numpy()
    return array
