"""The codec that a CodecSpec describes: element form, then packing, for each tensor of a cut.

In: arrays, or an untrusted header with its bytes.  Out: the other one, or a named refusal.
Pure: no socket, clock or file. What each tensor is on the wire, before packing:

=============== ======================================= =====================================
element         floats                                  everything else
=============== ======================================= =====================================
fp32            little-endian, bit for bit              little-endian, bit for bit
fp16            float16, saturated at +-65504           the same
uint8           [low, step as float32,] one byte each   the same
uint8-channel   [lows, steps,] one byte each            the same
klt             low bytes, then high bytes of 16 bits   the same
                for each component; else as fp16
=============== ======================================= =====================================

The ranges in brackets travel only where the spec has none for that tensor, and never packed.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgekit.errors import ConfigError, LinkError, ModelError, TrustError
from edgekit.spec.codec import RANGE_LIMIT, CodecSpec, channel_axis
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import steps
from edgekit.transport.codecs.klt import Klt
from edgekit.transport.codecs.packings import SIZE_MAX_BYTES, make_packer
from edgekit.transport.codecs.port import Buffer, Codec, CodedHeader, CodedTensor, Encoded

DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8",
                 "uint64", "uint32", "uint16", "uint8", "bool")
}  # fmt: skip
FP16_MAX = 65504.0
_HALF_INFINITY = 0x7C00

Form = Literal["raw", "half", "steps", "klt"]

_FLOATS = ("float64", "float32", "float16")
_DIMS_MAX = 16
_RANGE_BYTES = 8
_AGAIN = "deploy again, so that both ends run the same pipeline"


def make_codec(spec: CodecSpec) -> Codec:
    """The codec that ``spec`` describes. Raises: ConfigError if its library is not installed."""
    return _Codec(spec)


class _Codec:
    def __init__(self, spec: CodecSpec) -> None:
        self._spec = spec
        self._digest = spec.digest
        self._packer = make_packer(spec.packing)
        self._ranges = {one.name: steps.calibrated(one) for one in spec.ranges}
        self._klts = {one.name: Klt(one) for one in spec.bases}

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    # There.

    def encode(self, tensors: Mapping[str, Array]) -> Encoded:
        coded, buffers = [], []
        for name, array in tensors.items():
            tensor, buffer = self._encode_one(name, np.asarray(array))
            coded.append(tensor)
            buffers.append(buffer)
        header = CodedHeader(codec=self._spec.name, digest=self._digest, tensors=tuple(coded))
        return Encoded(header=header, buffers=tuple(buffers))

    def _encode_one(self, name: str, array: Array) -> tuple[CodedTensor, Buffer]:
        dtype = DTYPES.get(array.dtype.name)
        if dtype is None or array.size == 0 or array.ndim > _DIMS_MAX:
            raise ModelError(
                f"tensor {name!r} cannot be coded: {array.dtype.name}{list(array.shape)}",
                hint=f"cut elsewhere; tensors need 1 to {_DIMS_MAX} dimensions, at least one "
                f"element and one of {', '.join(DTYPES)}",
            )
        spec = TensorSpec(name=name, dtype=array.dtype.name, shape=array.shape)
        array = np.require(array, dtype=dtype, requirements="C")
        head, body = self._element(spec, array)
        data: Buffer = body.reshape(-1).view(np.uint8).data
        if len(data) > SIZE_MAX_BYTES:
            raise ModelError(
                f"tensor {name!r} takes {len(data)} bytes, the limit is {SIZE_MAX_BYTES}",
                hint="cut elsewhere",
            )
        packed = self._packer.pack(data) if self._packer else data
        is_packed = len(packed) < len(data)
        data = packed if is_packed else data
        if head:
            data = b"".join((head, data))
        return CodedTensor(spec=spec, nbytes=len(data), is_packed=is_packed), data

    def _element(self, spec: TensorSpec, array: Array) -> tuple[bytes, Array]:
        """What precedes the packed bytes, and the numbers to pack."""
        form, axis = self._form(spec), self._axis(spec)
        if form == "raw":
            return b"", array
        if form == "half":
            return b"", _as_half(array)
        ranges = self._ranges.get(spec.name)
        is_fixed = form == "klt" or ranges is not None
        if is_fixed and (why := self._channel_objection(spec)):
            raise ConfigError(why, hint="calibrate the codec again with this model")
        low, high = steps.measured(spec.name, array, None if is_fixed else axis)
        if form == "klt":
            return b"", self._klts[spec.name].quantize(array, axis)
        if ranges is not None:
            return b"", steps.quantize(array, axis, ranges)
        ranges = steps.ranges_of(low, high)
        head = b"".join(part.astype("<f4").tobytes() for part in ranges)
        return head, steps.quantize(array, axis, ranges)

    def _form(self, spec: TensorSpec) -> Form:
        """What becomes of this tensor."""
        element = self._spec.element
        if element == "fp32" or spec.dtype not in _FLOATS:
            return "raw"
        if element == "klt" and spec.name in self._klts:
            return "klt"
        return "half" if element in ("fp16", "klt") else "steps"

    def _axis(self, spec: TensorSpec) -> int | None:
        return None if self._spec.element == "uint8" else channel_axis(spec.shape)

    def _channel_count(self, spec: TensorSpec) -> int:
        axis = self._axis(spec)
        return 1 if axis is None else spec.shape[axis]

    def _channel_objection(self, spec: TensorSpec) -> str:
        """How the calibrated parameters of a tensor do not fit it; empty if they do."""
        form, wanted = self._form(spec), self._channel_count(spec)
        calibrated = wanted
        if form == "klt":
            calibrated = self._klts[spec.name].channel_count
        elif form == "steps" and spec.name in self._ranges:
            calibrated = len(self._ranges[spec.name][0])
        if calibrated == wanted:
            return ""
        return (
            f"codec {self._spec.name!r} was calibrated for {calibrated} channels of tensor "
            f"{spec.name!r}, not for {wanted} of the shape {list(spec.shape)}"
        )

    # And back.

    def check(self, header: CodedHeader, *, cap_bytes: int) -> None:
        reason = self._objection(header, cap_bytes)
        if reason:
            raise TrustError(f"coded tensors are refused: {reason}", hint=_AGAIN)

    def _objection(self, header: CodedHeader, cap_bytes: int) -> str:
        if header.codec != self._spec.name:
            return f"they are coded as {header.codec!r}, this end expects {self._spec.name!r}"
        if header.digest != self._digest:
            return f"both ends use {self._spec.name!r}, but with different parameters"
        names = [tensor.spec.name for tensor in header.tensors]
        if len(set(names)) != len(names):
            return f"a tensor name is repeated in {names}"
        total_bytes = 0
        for tensor in header.tensors:
            spec = tensor.spec
            if spec.dtype not in DTYPES:
                return f"dtype {spec.dtype} of tensor {spec.name!r}"
            if len(spec.shape) > _DIMS_MAX or any(dim < 1 for dim in spec.shape):
                return f"tensor {spec.name!r} has the shape {list(spec.shape)[:20]}"
            total_bytes += spec.nbytes
            if total_bytes > min(cap_bytes, SIZE_MAX_BYTES):
                return f"{total_bytes} bytes of tensors exceed the cap of {cap_bytes}"
            if why := self._size_objection(tensor):
                return why
        return ""

    def _size_objection(self, tensor: CodedTensor) -> str:
        spec = tensor.spec
        if why := self._channel_objection(spec):
            return why
        whole = self._head_bytes(spec) + self._body_bytes(spec)
        if tensor.is_packed and self._packer is None:
            return f"tensor {spec.name!r} is packed, which {self._spec.name!r} does not do"
        if tensor.is_packed:
            fits = self._head_bytes(spec) < tensor.nbytes < whole
        else:
            fits = tensor.nbytes == whole
        return "" if fits else f"tensor {spec} cannot take {tensor.nbytes} bytes"

    def decode(
        self, header: CodedHeader, buffers: Sequence[Buffer], *, cap_bytes: int
    ) -> dict[str, Array]:
        self.check(header, cap_bytes=cap_bytes)
        lengths = [memoryview(buffer).nbytes for buffer in buffers]
        if lengths != [tensor.nbytes for tensor in header.tensors]:
            raise LinkError(
                f"{lengths} bytes came where {[one.nbytes for one in header.tensors]} were "
                "announced",
                hint="wait, the hop reconnects by itself",
            )
        return {
            tensor.spec.name: self._decode_one(tensor, memoryview(buffer).cast("B"))
            for tensor, buffer in zip(header.tensors, buffers, strict=True)
        }

    def _decode_one(self, tensor: CodedTensor, buffer: memoryview) -> Array:
        spec, dtype = tensor.spec, DTYPES[tensor.spec.dtype]
        head_bytes = self._head_bytes(spec)
        data: Buffer = buffer[head_bytes:]
        if tensor.is_packed and self._packer is not None:
            data = self._packer.unpack(data, self._body_bytes(spec))
        form, axis = self._form(spec), self._axis(spec)
        if form in ("raw", "half"):
            sent_dtype = DTYPES["float16"] if form == "half" else dtype
            array = np.frombuffer(data, sent_dtype).reshape(spec.shape)
            # Whoever gets it may write to it.
            is_usable = array.flags.writeable and array.flags.aligned
            return array.astype(dtype, copy=not is_usable)
        coded = np.frombuffer(data, np.uint8)
        if form == "klt":
            return self._klts[spec.name].restore(coded, spec.shape, axis, dtype)
        ranges = self._ranges.get(spec.name)
        if ranges is None:
            ranges = _sent_ranges(spec.name, buffer[:head_bytes])
        return steps.restore(coded.reshape(spec.shape), axis, ranges, dtype)

    def _head_bytes(self, spec: TensorSpec) -> int:
        if self._form(spec) != "steps" or spec.name in self._ranges:
            return 0
        return _RANGE_BYTES * self._channel_count(spec)

    def _body_bytes(self, spec: TensorSpec) -> int:
        """Before packing."""
        form = self._form(spec)
        if form == "klt":
            klt = self._klts[spec.name]
            return 2 * klt.component_count * (spec.element_count // klt.channel_count)
        per_element = {"raw": spec.nbytes // spec.element_count, "half": 2, "steps": 1}
        return per_element[form] * spec.element_count


def _as_half(array: Array) -> Array:
    """float16; finite numbers beyond its largest become that, infinities and NaN stay."""
    with np.errstate(over="ignore"):
        half = array.astype(DTYPES["float16"])
    # By its bits: NumPy compares float16 ten times more slowly than integers.
    if ((half.view("<u2") & 0x7FFF) == _HALF_INFINITY).any():
        with np.errstate(over="ignore"):
            half = np.where(np.isfinite(array), np.clip(array, -FP16_MAX, FP16_MAX), array).astype(
                DTYPES["float16"]
            )
    return half


def _sent_ranges(name: str, head: memoryview) -> steps.Ranges:
    """The ranges that came with a frame. Raises: LinkError if they are none."""
    low, step = np.frombuffer(head, "<f4").astype(np.float32).reshape(2, -1)
    top = RANGE_LIMIT * (1 + 2.0**-20)
    # Written so that NaN fails it.
    if not ((np.abs(low) <= top) & (step > 0) & (step <= top)).all():
        raise LinkError(
            f"the ranges of tensor {name!r} came as no such numbers",
            hint="run the same edgekit at both ends",
        )
    return low, step
