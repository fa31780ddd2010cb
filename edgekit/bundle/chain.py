"""How tensors travel along the shards of a plan: the same on devices and in verification.

In: the tensors that entered a device.  Out: those that leave it.  Pure but for running the shard.
A shard reads some of what enters and makes some of what leaves. Whatever else leaves (an early
model output, a skip connection) is handed on untouched and never visits the runtime.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from edgekit.errors import ModelError
from edgekit.spec.plan import Plan
from edgekit.spec.tensors import Array, TensorSpec


class ShardSession(Protocol):
    """A loaded shard (``runtime.session.Session`` is one)."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` must be given."""

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One inference."""


def leaving_of(plan: Plan, index: int) -> tuple[TensorSpec, ...]:
    """What a shard makes of what entered: the next cut, or at the end the model outputs. Where the
    first device answers some frames itself, its shard is a whole model.
    """
    if plan.shares_frames and index == 0:
        return plan.model_outputs
    return plan.cuts[index].tensors if index < len(plan.cuts) else plan.model_outputs


def advance(
    session: ShardSession, tensors: Mapping[str, Array], leaving: Sequence[str]
) -> dict[str, Array]:
    """Run one shard on what entered its device; returns what leaves it, in the order given.

    Raises: ModelError if the shard needs, or the next hop takes, a tensor that nobody made.
    """
    try:
        made = session.run({spec.name: tensors[spec.name] for spec in session.inputs})
        return {name: made[name] if name in made else tensors[name] for name in leaving}
    except KeyError as error:
        raise ModelError(
            f"tensor {error.args[0]!r} is neither made by this shard nor brought to it",
            hint="build the bundle again",
        ) from None


def run_chain(
    sessions: Sequence[ShardSession],
    leaving: Sequence[Sequence[str]],
    inputs: Mapping[str, Array],
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """For each shard in turn: the tensors that entered its device and those that left it."""
    tensors = dict(inputs)
    for session, names in zip(sessions, leaving, strict=True):
        left = advance(session, tensors, names)
        yield tensors, left
        tensors = left
