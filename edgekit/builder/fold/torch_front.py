"""Fold the blocks of a torch network; the result proves itself.

In:  a network in training form (branches, BatchNorm) in evaluation mode.  Out: a copy in which each
block is one convolution (strategy S3: nothing stays live); the network given is never changed.
Each block is compared on random input before it is put in place, then the network as a whole: the
folded one in float32, as it will run, with the trained one in float64. In float32 the trained one
is the less exact of the two (up to 7e-6 against 5e-6: three branches round, one does not), and its
rounding is not an error of the fold.
"""

import copy
import logging
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.builder.compare import MAX_RELATIVE_ERROR, difference
from edgekit.builder.fold.algebra import (
    BatchNorm,
    Floats,
    Kernel,
    add_branches,
    fold_batch_norm,
    identity_kernel,
)
from edgekit.builder.zoo.blocks import BranchedConv, ConvBn, FoldedConv
from edgekit.errors import ModelError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)


def fold_module(module: nn.Module, *, probe_shape: tuple[int, ...] | None = None) -> nn.Module:
    """A folded copy of ``module``, in evaluation mode, float32.

    Shapes: ``probe_shape`` is that of a network input (B, C, H, W); where it is given, the whole
    networks are compared too.
    Returns: the copy; max |folded - trained| <= 1e-5 max |trained| for each block and output,
    with ``trained`` computed in float64.
    Raises: ModelError naming the block if it cannot be folded, or is not equal after it;
    ModelError if the network is in training mode, or a BatchNorm outside any block is left.
    """
    if module.training:
        raise ModelError(
            f"{type(module).__name__} is in training mode, where BatchNorm depends on the batch",
            hint="call .eval() on it first",
        )
    folded = copy.deepcopy(module).cpu()
    blocks = [(n, b) for n, b in folded.named_modules() if isinstance(b, BranchedConv)]
    for name, block in blocks:
        replacement = _proved(block, name or type(block).__name__)
        if not name:
            return replacement
        parent, _, child = name.rpartition(".")
        setattr(folded.get_submodule(parent), child, replacement)
    _refuse_leftovers(folded)
    if probe_shape is not None:
        _prove_whole(module, folded, probe_shape)
    log.info("folded %d blocks of %s", len(blocks), type(module).__name__)
    return folded


def fold_block(block: BranchedConv) -> FoldedConv:
    """One block as one convolution and its activation; not proved yet.

    Raises: ModelError if its numbers cannot be folded.
    """
    kernels = [_branch_kernel(branch, block) for branch in block.linear_branches]
    total = add_branches(kernels, block.geometry)
    folded = FoldedConv(block).eval()
    with torch.no_grad():
        folded.conv.weight.copy_(torch.from_numpy(total.weight.astype(np.float32)))
        _bias(folded.conv).copy_(torch.from_numpy(total.bias.astype(np.float32)))
    return folded


def _branch_kernel(branch: ConvBn | nn.BatchNorm2d, block: BranchedConv) -> Kernel:
    if isinstance(branch, nn.BatchNorm2d):
        return fold_batch_norm(identity_kernel(block.in_count, block.geometry), _norm(branch))
    kernel = Kernel(
        geometry=branch.geometry,
        weight=_array(branch.conv.weight),
        bias=np.zeros(branch.conv.out_channels)
        if branch.conv.bias is None
        else _array(branch.conv.bias),
    )
    return fold_batch_norm(kernel, _norm(branch.bn))


def _norm(norm: nn.BatchNorm2d) -> BatchNorm:
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


def _proved(block: BranchedConv, name: str) -> FoldedConv:
    """The folded block, compared before the activation: a ReLU would hide errors behind zeros."""
    try:
        folded = fold_block(block)
    except ModelError as error:
        raise ModelError(f"block {name}: {error.what}", hint=error.hint) from None
    geometry = block.geometry
    rows, columns = (
        geometry.dilation[axis] * geometry.kernel[axis] + 4 * geometry.stride[axis]
        for axis in (0, 1)
    )
    probe = torch.randn((2, block.in_count, rows, columns), generator=_seeded())
    with torch.no_grad():
        want, got = in_float64(block).linear(probe.double()), folded.conv(probe)
    _check(f"block {name}", want, got)
    return folded


def _prove_whole(module: nn.Module, folded: nn.Module, shape: tuple[int, ...]) -> None:
    probe = torch.rand(shape, generator=_seeded())
    with torch.no_grad():
        wants = tensors_of(in_float64(module)(probe.double()))
        gots = tensors_of(folded(probe))
    for number, (want, got) in enumerate(zip(wants, gots, strict=True)):
        _check(f"output {number} of {type(module).__name__}", want, got)


def _check(what: str, want: Tensor, got: Tensor) -> None:
    error = difference(want.numpy(), got.double().numpy()).relative_error
    if not error <= MAX_RELATIVE_ERROR:
        raise ModelError(
            f"folding moved {what} by {error:.1e} of its range, limit {MAX_RELATIVE_ERROR:.0e}",
            hint="look for BatchNorms with a variance near zero, and report this model",
        )


def in_float64(module: M) -> M:
    """A copy that computes in float64: the function that was trained, without its rounding."""
    return copy.deepcopy(module).cpu().double()


def tensors_of(outputs: object) -> list[Tensor]:
    """All tensors in nested lists and tuples of outputs, in order. Raises: ModelError on others."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, list | tuple):
        return [tensor for part in outputs for tensor in tensors_of(part)]
    raise ModelError(
        f"the network returns a {type(outputs).__name__}", hint="return tensors, lists or tuples"
    )


def _refuse_leftovers(folded: nn.Module) -> None:
    for name, module in folded.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"{name} is a BatchNorm outside any block that can be folded",
                hint="build the network from edgekit.builder.zoo.blocks",
            )


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None, "FoldedConv always has a bias"
    return conv.bias


def _array(value: Tensor) -> Floats:
    array: Floats = value.detach().cpu().double().numpy()
    return array


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
