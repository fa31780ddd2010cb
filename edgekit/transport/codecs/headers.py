"""What every codec asks of a header from a peer, before anything is allocated for it.

In: an untrusted CodedHeader.  Out: what is wrong with it, in words; empty if nothing is.  Pure.
"""

from edgekit.errors import LinkError, TrustError
from edgekit.transport.codecs.arrays import DIMS_MAX, DTYPES
from edgekit.transport.codecs.packings import SIZE_MAX_BYTES
from edgekit.transport.codecs.port import CodedHeader


def header_objection(header: CodedHeader, *, name: str, digest: str, cap_bytes: int) -> str:
    """Whether it is of the codec ``name`` with that digest, and its tensors can be.

    ``cap_bytes`` is for the tensors as they will be in memory.
    """
    if header.codec != name:
        return f"they are coded as {header.codec!r}, this end expects {name!r}"
    if header.digest != digest:
        return f"both ends use {name!r}, but with different parameters"
    names = [tensor.spec.name for tensor in header.tensors]
    if len(set(names)) != len(names):
        return f"a tensor name is repeated in {names}"
    total_bytes = 0
    for tensor in header.tensors:
        spec = tensor.spec
        if spec.dtype not in DTYPES:
            return f"dtype {spec.dtype} of tensor {spec.name!r}"
        if len(spec.shape) > DIMS_MAX or any(dim < 1 for dim in spec.shape):
            return f"tensor {spec.name!r} has the shape {list(spec.shape)[:20]}"
        total_bytes += spec.nbytes
        if total_bytes > min(cap_bytes, SIZE_MAX_BYTES):
            return f"{total_bytes} bytes of tensors exceed the cap of {cap_bytes}"
    return ""


def refusal(reason: str) -> TrustError:
    """The error that says so."""
    return TrustError(
        f"coded tensors are refused: {reason}",
        hint="deploy again, so that both ends run the same pipeline",
    )


def check_lengths(header: CodedHeader, views: list[memoryview]) -> None:
    """Raises: LinkError if other numbers of bytes came than the header announces."""
    lengths = [view.nbytes for view in views]
    announced = [tensor.nbytes for tensor in header.tensors]
    if lengths != announced:
        raise LinkError(
            f"{lengths} bytes came where {announced} were announced",
            hint="wait, the hop reconnects by itself",
        )
