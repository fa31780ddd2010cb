"""Fold the blocks of a torch network as chosen, block by block; the result proves itself.

In:  a network in training form (branches, BatchNorm) in evaluation mode, and the strategy of each
block.  Out: a copy in which each block is one convolution and the branches that its strategy keeps
live; the network given is never changed.
Each block is compared on random input before it is put in place, then the network as a whole: the
folded one in float32, as it will run, with the trained one in float64. In float32 the trained one
is the less exact of the two (up to 7e-6 against 5e-6: three branches round, one does not), and its
rounding is not an error of the fold.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgekit.builder.compare import MAX_RELATIVE_ERROR, difference
from edgekit.builder.fold.algebra import Kernel, add_branches, embed
from edgekit.builder.fold.torch_loose import fold_loose_norms
from edgekit.builder.fold.torch_read import (
    batch_norm,
    branch_kernel,
    conv_of,
    live_branch,
    without_shift,
)
from edgekit.builder.zoo.blocks import BranchedConv, FoldedConv, PartlyFolded
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.fusion import S3, FusionRule, FusionStrategy, choose_strategies

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
Strategies = FusionStrategy | Mapping[str, FusionStrategy] | Sequence[FusionRule]
"""One for all blocks, one for each named block (the others fold fully), or rules."""
_MOST_ROUNDING = 1e-3
"""A network that is further off in float32 is not fit to be deployed in it."""


def fold_module(
    module: nn.Module,
    *,
    strategy: Strategies = S3,
    probe_shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """A folded copy of ``module``, in evaluation mode, float32.

    ``strategy`` counts and names blocks as ``block_names`` does. A BatchNorm outside any block is
    folded into the convolution whose output it alone reads.
    Shapes: ``probe_shape`` is that of a network input (B, C, H, W); where it is given, the whole
    networks are compared too.
    Returns: the copy; max |folded - trained| <= 1e-5 max |trained| for each block and output,
    with ``trained`` computed in float64.
    Raises: ModelError naming the block if it cannot be folded, or is not equal after it;
    ModelError if the network is in training mode, or a BatchNorm is left; ConfigError if a
    strategy is for a block that is not there.
    """
    refuse_training(module)
    chosen = _chosen(block_names(module), strategy)
    folded = in_float32(module).eval()
    with torch.random.fork_rng(devices=[]):  # new layers draw weights before they get theirs
        replacements = _replacements(folded, chosen)
        if "" in replacements:
            return replacements[""]
        for name, replacement in replacements.items():
            folded.set_submodule(name, replacement)
        fold_loose_norms(folded, _check)
    if probe_shape is not None:
        _prove_whole(module, folded, probe_shape)
    log.info("folded %d blocks of %s", len(replacements), type(module).__name__)
    return folded


def block_names(module: nn.Module) -> tuple[str, ...]:
    """Paths of the blocks with more than one branch, in the order in which they were built.

    A module that is itself a block has the name of its class.
    """
    names: dict[int, str] = {}
    for name, block in _blocks(module):
        if len(block.branches) > 1:
            names.setdefault(id(block), name or type(block).__name__)
    return tuple(names.values())


def fold_block(block: BranchedConv, strategy: FusionStrategy = S3) -> FoldedConv:
    """One block as its main convolution, the branches to keep, and its activation; not proved yet.

    Raises: ModelError naming the branch that cannot be folded.
    """
    kinds, main = block.kinds, block.main
    # Merged kernels rather than several convolutions: a BatchNorm over the sum is linear, so each
    # part takes its scale, and the main part alone its shift.
    after = None if block.after is None else batch_norm(block.after)
    kernels: list[Kernel] = []
    live: dict[str, nn.Module] = {}
    for name, branch in block.branches.items():
        share = after if after is None or name == main else without_shift(after)
        try:
            if name != main and strategy.keeps(kinds[name]):
                live[name] = live_branch(branch, block.in_count, share)
            else:
                kernel = branch_kernel(branch, block.in_count, block.geometry, share)
                kernels.append(embed(kernel, block.geometry))
        except ModelError as error:
            raise ModelError(f"branch {name}: {error.what}", hint=error.hint) from None
    folded = PartlyFolded(block, live) if live else FoldedConv(block)
    folded.conv = conv_of(add_branches(kernels, block.geometry))
    return folded.eval()


def refuse_training(module: nn.Module) -> None:
    """Raises: ModelError naming the first part of the network that is in training mode."""
    for name, part in module.named_modules():
        if part.training:
            raise ModelError(
                f"{name or type(module).__name__} is in training mode, where BatchNorm depends on "
                "the batch",
                hint="call .eval() on the network first",
            )


def in_float64(module: M) -> M:
    """A copy that computes in float64: the function that was trained, without its rounding."""
    return copy.deepcopy(module).cpu().double()


def in_float32(module: M) -> M:
    """A copy that computes in float32, as a device would with every branch live."""
    return copy.deepcopy(module).cpu().float()


def tensors_of(outputs: object) -> list[Tensor]:
    """All tensors in nested lists and tuples of outputs, in order. Raises: ModelError on others."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, list | tuple):
        return [tensor for part in outputs for tensor in tensors_of(part)]
    raise ModelError(
        f"the network returns a {type(outputs).__name__}", hint="return tensors, lists or tuples"
    )


def _blocks(module: nn.Module) -> list[tuple[str, BranchedConv]]:
    """Every place of every block: one that is used twice has two."""
    places = module.named_modules(remove_duplicate=False)
    return [(name, block) for name, block in places if isinstance(block, BranchedConv)]


def _chosen(names: Sequence[str], strategy: Strategies) -> Mapping[str, FusionStrategy]:
    if isinstance(strategy, FusionStrategy):
        return dict.fromkeys(names, strategy)
    if not isinstance(strategy, Mapping):
        return choose_strategies(names, strategy)
    unknown = [name for name in strategy if name not in names]
    if unknown:
        raise ConfigError(
            f"there is no block {unknown[0]!r} with branches",
            hint=f"this network has {', '.join(names[:4]) or 'none'}"
            + (f" and {len(names) - 4} more" if len(names) > 4 else ""),
        )
    return strategy


def _replacements(
    network: nn.Module, chosen: Mapping[str, FusionStrategy]
) -> dict[str, FoldedConv]:
    """What each place of a block becomes; two places of one block become one."""
    done: dict[int, FoldedConv] = {}
    places = _blocks(network)
    for name, block in places:
        if id(block) not in done:
            called = name or type(block).__name__
            done[id(block)] = _proved(block, called, chosen.get(called, S3))
    return {name: done[id(block)] for name, block in places}


def _proved(block: BranchedConv, name: str, strategy: FusionStrategy) -> FoldedConv:
    """The folded block, compared before the activation: a ReLU would hide errors behind zeros."""
    try:
        folded = fold_block(block, strategy)
    except ModelError as error:
        raise ModelError(f"block {name}: {error.what}", hint=error.hint) from None
    geometry = block.geometry
    rows, columns = (
        geometry.dilation[axis] * geometry.kernel[axis] + 4 * geometry.stride[axis]
        for axis in (0, 1)
    )
    probe = torch.randn((2, block.in_count, rows, columns), generator=_seeded())
    with torch.no_grad():
        want, got = in_float64(block).linear(probe.double()), folded.linear(probe)
    _check(f"block {name}", want, got)
    return folded


def _prove_whole(module: nn.Module, folded: nn.Module, shape: tuple[int, ...]) -> None:
    probe = torch.rand(shape, generator=_seeded())
    with torch.no_grad():
        wants = tensors_of(in_float64(module)(probe.double()))
        gots = tensors_of(folded(probe))
        for number, (want, got) in enumerate(zip(wants, gots, strict=True)):
            what = f"output {number} of {type(module).__name__}"
            error, limit = relative_error(want, got), MAX_RELATIVE_ERROR
            if not error <= limit:
                own = tensors_of(in_float32(module)(probe))[number]
                limit = float32_limit(what, relative_error(want, own))
            _refuse_moved(what, error, limit)


def relative_error(want: Tensor, got: Tensor) -> float:
    """max |got - want| / max |want|, with ``want`` in float64."""
    return difference(want.numpy(), got.double().numpy()).relative_error


def float32_limit(what: str, rounding: float) -> float:
    """How far a float32 form of a network may be from it, where 1e-5 is too strict.

    Some networks amplify rounding. ``rounding`` is how far ``what`` of the trained network itself
    is off in float32; a form that adds up in another order may be some times as far.
    Returns: 1e-5, or 4 times ``rounding`` if that is more, but never more than 1e-3.
    """
    if 4 * rounding <= MAX_RELATIVE_ERROR:
        return MAX_RELATIVE_ERROR
    log.warning("%s is %.1e off in float32 before anything is changed", what, rounding)
    return min(4 * rounding, _MOST_ROUNDING)


def _check(what: str, want: Tensor, got: Tensor) -> None:
    _refuse_moved(what, relative_error(want, got), MAX_RELATIVE_ERROR)


def _refuse_moved(what: str, error: float, limit: float) -> None:
    if not error <= limit:
        raise ModelError(
            f"folding moved {what} by {error:.1e} of its range, limit {limit:.0e}",
            hint="look for BatchNorms with a variance near zero, and report this model",
        )


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
