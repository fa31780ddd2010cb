"""Fold BatchNorms that stand outside any block into the convolution before them.

In:  a torch network, in evaluation mode, whose blocks are folded already.  Out: the same network,
changed in place: each pair is a convolution with bias and an Identity, so module paths stay.
Which convolution a BatchNorm reads is taken from a symbolic run (torch.fx), not from the order of
attributes, which says nothing about the order of calls. Whatever is left is refused by name.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from edgekit.builder.fold.algebra import fold_batch_norm
from edgekit.builder.fold.torch_read import batch_norm, conv_kernel, conv_of
from edgekit.builder.zoo.blocks import FoldedConv
from edgekit.errors import ModelError

Check = Callable[[str, Tensor, Tensor], None]
_HINT = (
    "let each BatchNorm2d directly follow a Conv2d that nothing else reads, or build the network "
    "from edgekit.builder.zoo.blocks"
)


def fold_loose_norms(network: nn.Module, check: Check) -> None:
    """Fold every BatchNorm left in ``network``; ``check(what, want, got)`` judges each pair.

    Raises: ModelError naming the BatchNorm that follows no convolution of its own, or the reason
    why the network cannot be run symbolically.
    """
    norms = _norms(network)
    if not norms:
        return
    pairs = _pairs(network, norms[0])
    for norm_name in norms:
        conv_name = pairs.get(norm_name)
        if conv_name is None:
            raise ModelError(
                f"{norm_name} is a BatchNorm outside any block that can be folded", hint=_HINT
            )
        _fold(network, conv_name, norm_name, check)


def _norms(network: nn.Module) -> list[str]:
    kinds = nn.modules.batchnorm._BatchNorm
    places = network.named_modules(remove_duplicate=False)
    return [name for name, module in places if isinstance(module, kinds)]


class _Tracer(fx.Tracer):
    """Sees folded blocks as single steps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FoldedConv) or super().is_leaf_module(m, module_qualified_name)


def _pairs(network: nn.Module, first: str) -> dict[str, str]:
    """The convolution of each BatchNorm that is alone in reading one, both called once."""
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # noqa: BLE001 - the network's own code runs, and may raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        raise ModelError(
            f"{first} is a BatchNorm outside any block, and what it reads is unknown: {reason}",
            hint=_HINT,
        ) from None
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    pairs = {}
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        names = str(source.target), str(node.target)
        conv, norm = (network.get_submodule(name) for name in names)
        alone = len(source.users) == 1 and all(calls[name] == 1 for name in names)
        if alone and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            pairs[names[1]] = names[0]
    return pairs


def _fold(network: nn.Module, conv_name: str, norm_name: str, check: Check) -> None:
    conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    try:
        kernel = conv_kernel(conv)
        folded = conv_of(fold_batch_norm(kernel, batch_norm(norm))).eval()
    except ModelError as error:
        raise ModelError(f"{norm_name}: {error.what}", hint=error.hint) from None
    geometry = kernel.geometry
    rows, columns = (
        geometry.dilation[axis] * geometry.kernel[axis] + 4 * geometry.stride[axis]
        for axis in (0, 1)
    )
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((2, conv.in_channels, rows, columns), generator=generator)
    with torch.no_grad():
        want, got = nn.Sequential(conv, norm).double()(probe.double()), folded(probe)
    check(f"{conv_name} with {norm_name}", want, got)
    network.set_submodule(conv_name, folded)
    network.set_submodule(norm_name, nn.Identity())
