"""A chain of shards as one session: what a fleet computes, codecs included, in this process.

In:  loaded shards, what leaves each, the codec of each cut.  Out: a Session.
"""

from collections.abc import Sequence

from edgekit.bundle.chain import ShardSession, advance
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs.port import Codec


class ChainSession:
    """Runs shard after shard; what crosses is coded and decoded, as on the wire."""

    def __init__(
        self,
        sessions: Sequence[ShardSession],
        leaving: Sequence[Sequence[str]],
        codecs: Sequence[Codec | None],
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._stages = tuple(zip(sessions, leaving, (*codecs, None), strict=True))
        self._inputs, self._outputs = inputs, outputs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Of the first shard."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the last shard."""
        return self._outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One frame through all shards. Raises: ModelError or DeviceError as they do."""
        tensors = inputs
        for session, names, codec in self._stages:
            left = advance(session, tensors, names)
            tensors = left if codec is None else through(codec, left)
        return tensors


def through(codec: Codec, tensors: dict[str, Array]) -> dict[str, Array]:
    """``tensors`` as they arrive."""
    coded = codec.encode(tensors)
    cap_bytes = sum(array.nbytes for array in tensors.values())
    return codec.decode(coded.header, coded.buffers, cap_bytes=cap_bytes)
