"""The codec port: a cut's tensors <-> what travels.

Real: ``codec.py``, made by ``make_codec`` from a ``spec.codec.CodecSpec``. It needs no fake.

What crosses is a header of small facts (which codec, which tensors, how many bytes each) and one
run of bytes per tensor. Both come from a peer and are believed in nothing: ``check`` refuses a
header before anything is allocated for it, ``decode`` refuses bytes that are not what it says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from edgekit.spec.codec import CodecSpec
from edgekit.spec.tensors import Array, TensorSpec

Buffer = bytes | bytearray | memoryview


class CodedGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Some principal components of a tensor, next to those of the group before it."""

    component_count: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    bits: Annotated[int, Meta(ge=1, le=16)]
    """Of each number before packing."""
    eighths: Annotated[int, Meta(ge=8, le=255)]
    """Of the codec's step: the step of these numbers."""
    nbytes: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    """On the wire; fewer than the numbers take: packed."""


class CodedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor as it travels."""

    spec: TensorSpec
    """As the sending shard made it and the receiving one gets it."""
    nbytes: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    """On the wire."""
    is_packed: bool = False
    """False where packing would have made it no smaller: then the bytes are left as they are."""
    groups: tuple[CodedGroup, ...] = ()
    """Of principal components, the leading first: those that came. Their bytes are all of
    ``nbytes``; empty for a tensor that is sent otherwise."""

    @property
    def component_count(self) -> int:
        """Principal components that came; 0 for a tensor that is sent otherwise."""
        return sum(group.component_count for group in self.groups)


class CodedHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver must know before the bytes come."""

    codec: Annotated[str, Meta(max_length=64)]
    digest: Annotated[str, Meta(max_length=64)]
    """Of the sender's CodecSpec."""
    tensors: tuple[CodedTensor, ...]

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow this header."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A header, and the bytes of each of its tensors in order."""

    header: CodedHeader
    buffers: tuple[Buffer, ...]


class Codec(Protocol):
    """One way to write tensors. May be used by several threads at once."""

    @property
    def spec(self) -> CodecSpec:
        """What both ends agree on."""

    def encode(self, tensors: Mapping[str, Array], *, budget_bytes: int | None = None) -> Encoded:
        """The tensors as they travel. The buffers may share memory with them.

        With a budget, principal components that do not fit are sent in larger steps, up to 8 times;
        if they still do not fit, the weakest stay behind; some of every tensor are sent whatever it
        is. Codecs without components ignore it.

        Raises: ModelError if a tensor cannot travel, such as one with NaN in 256 steps.
        """

    def check(self, header: CodedHeader, *, cap_bytes: int) -> None:
        """Refuse what is of another codec, malformed or too large, before it is received.

        ``cap_bytes`` is for the tensors as they will be in memory; on the wire they take no more
        than that and 8 bytes for each range.
        Raises: TrustError naming what differs.
        """

    def decode(
        self, header: CodedHeader, buffers: Sequence[Buffer], *, cap_bytes: int
    ) -> dict[str, Array]:
        """The tensors behind a header, checked first, and its bytes; in the header's order.

        Arrays that did not change on the way may share memory with ``buffers``.
        Raises: TrustError as ``check``; LinkError if the bytes are not what the header says.
        """
