"""Train one network in two processes: activations go forward over a socket, gradients come back.

In:  a classifier of the zoo, the name of the module after which it is cut, and batches.  Out: the
gradients and the weights after the steps, to be compared with those of the whole network in one
process.  They are equal because the second half sees the whole batch (so its BatchNorms see the
same statistics) and the chain rule does not ask where a factor was computed.
A rate 0 < eta <= 2 / L (L: how fast the gradient may change) is the paper's condition for progress;
it is the same split or whole, and nothing here enforces it.
Source: arXiv 2411.00838, section V; Gupta and Raskar, "Distributed learning of deep neural network
over multiple agents", 2018.
"""

import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.builder.compare import difference
from edgekit.builder.train.recipe import Recipe, make_optimizer
from edgekit.builder.zoo.classifier import Classifier
from edgekit.errors import LinkError, ModelError

Batch = tuple[Tensor, Tensor]
"""Inputs (B, C, H, W) float32 and labels (B,) int64."""
HEAD = "head"
ANSWER_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What steps of training led to, by name as in the whole network."""

    losses: tuple[float, ...]
    gradients: Mapping[str, Tensor]
    """Of the last step."""
    weights: Mapping[str, Tensor]
    """After it; the BatchNorms' statistics too."""

    def relative_error(self, other: "Outcome") -> float:
        """The largest difference of any tensor, relative to that tensor's largest value here.

        Infinite if a tensor is missing, or one has another shape.
        """
        pairs = ((self.gradients, other.gradients), (self.weights, other.weights))
        if any(ours.keys() != theirs.keys() for ours, theirs in pairs):
            return math.inf
        return max(
            difference(value.numpy(), theirs[name].numpy()).relative_error
            for ours, theirs in pairs
            for name, value in ours.items()
        )


def boundaries(model: Classifier) -> tuple[str, ...]:
    """Names of the modules after which the network may be cut, in order."""
    return tuple(name for name, _ in _stages(model)[:-1])


def whole_steps(model: Classifier, batches: Sequence[Batch], recipe: Recipe) -> Outcome:
    """One step per batch in this process, on a copy of ``model``."""
    copy = deepcopy(model).train()
    optimizer, losses = make_optimizer(copy, recipe), []
    for step, (inputs, labels) in enumerate(batches):
        _set_rate(optimizer, recipe, step, len(batches))
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(copy(inputs), labels, recipe)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    return Outcome(losses=tuple(losses), gradients=_gradients(copy), weights=_weights(copy))


def split_steps(
    model: Classifier, boundary: str, batches: Sequence[Batch], recipe: Recipe
) -> Outcome:
    """As whole_steps, with the modules after ``boundary`` in another process.

    Each process knows and updates the weights of its own half only; halves and results are put
    together for the comparison.
    Raises: ModelError if there is no such boundary; LinkError if the other process stops or does
    not answer in time.
    """
    front, back = _halves(deepcopy(model).train(), boundary)
    optimizer, losses = make_optimizer(front, recipe), []
    with _other_half(back, recipe, len(batches)) as connection:
        for step, (inputs, labels) in enumerate(batches):
            _set_rate(optimizer, recipe, step, len(batches))
            optimizer.zero_grad(set_to_none=True)
            activation = front(inputs)
            connection.send((activation.detach().numpy(), labels.numpy()))
            loss, gradient = _answer(connection)
            torch.autograd.backward(activation, torch.from_numpy(gradient))
            optimizer.step()
            losses.append(loss)
        gradients, weights = _answer(connection)
    return Outcome(
        losses=tuple(losses),
        gradients={**_gradients(front), **_tensors(gradients)},
        weights={**_weights(front), **_tensors(weights)},
    )


class _Half(nn.Module):
    """Some stages of a network, run one after the other, under their own names."""

    def __init__(self, stages: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.names = [name for name, _ in stages]
        self.stages = nn.ModuleList(module for _, module in stages)

    def forward(self, x: Tensor) -> Tensor:
        """Input of the first stage -> output of the last."""
        for name, stage in zip(self.names, self.stages, strict=True):
            x = stage(x.mean(dim=(2, 3))) if name == HEAD else stage(x)
        return x

    def renamed(self, name: str) -> str:
        """The whole network's name of one of this half's tensors."""
        _, number, rest = name.split(".", 2)
        return f"{self.names[int(number)]}.{rest}"


def _stages(model: Classifier) -> list[tuple[str, nn.Module]]:
    """The modules that a classifier runs one after the other: sequences opened, the head last."""
    return [*_opened("features", model.features), (HEAD, model.head)]


def _opened(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is nn.Sequential:
        for child, part in module.named_children():
            yield from _opened(f"{name}.{child}", part)
    else:
        yield name, module


def _halves(model: Classifier, boundary: str) -> tuple[_Half, _Half]:
    stages = _stages(model)
    names = [name for name, _ in stages[:-1]]
    if boundary not in names:
        raise ModelError(
            f"{type(model).__name__} cannot be cut after {boundary!r}",
            hint=f"use one of {', '.join(names)}",
        )
    cut = names.index(boundary) + 1
    return _Half(stages[:cut]), _Half(stages[cut:])


@contextmanager
def _other_half(half: _Half, recipe: Recipe, step_count: int) -> Iterator[Connection]:
    """A process that trains ``half``; it ends with the context, whatever happens."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve,
        args=(theirs, half, recipe, step_count, torch.get_num_threads()),
        name="edgekit-second-half",
        daemon=True,
    )
    process.start()
    theirs.close()
    try:
        yield ours
        process.join(ANSWER_LIMIT_S)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        process.join(ANSWER_LIMIT_S)
        raise LinkError(
            f"the process with the second half stopped (exit code {process.exitcode})",
            hint="look at its error output; it may have run out of memory",
        ) from None
    finally:
        ours.close()
        if process.is_alive():
            process.kill()
        process.join()


def _serve(
    connection: Connection, half: _Half, recipe: Recipe, step_count: int, thread_count: int
) -> None:
    """The other process: finish the forward pass, learn, hand back the gradient of the cut."""
    torch.set_num_threads(thread_count)
    optimizer = make_optimizer(half, recipe)
    for step in range(step_count):
        values, kinds = connection.recv()
        _set_rate(optimizer, recipe, step, step_count)
        optimizer.zero_grad(set_to_none=True)
        activation = torch.from_numpy(values).requires_grad_()
        loss = _loss(half(activation), torch.from_numpy(kinds), recipe)
        torch.autograd.backward(loss)
        optimizer.step()
        gradient = cast(Tensor, activation.grad)
        connection.send((float(loss.detach()), gradient.numpy()))
    connection.send((_arrays(_gradients(half)), _arrays(_weights(half))))
    connection.close()


def _answer(connection: Connection) -> Any:
    if not connection.poll(ANSWER_LIMIT_S):
        raise LinkError(
            f"the second half gave no answer for {ANSWER_LIMIT_S:.0f} s",
            hint="look whether the machine is out of memory",
        )
    return connection.recv()


def _set_rate(optimizer: torch.optim.SGD, recipe: Recipe, step: int, step_count: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step, step_count)


def _loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        _name(module, name): weight.grad.detach().clone()
        for name, weight in module.named_parameters()
        if weight.grad is not None
    }


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {_name(module, name): value.clone() for name, value in module.state_dict().items()}


def _name(module: nn.Module, name: str) -> str:
    return module.renamed(name) if isinstance(module, _Half) else name


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, "np.ndarray[Any, Any]"]:
    return {name: value.numpy() for name, value in tensors.items()}


def _tensors(arrays: Mapping[str, "np.ndarray[Any, Any]"]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
