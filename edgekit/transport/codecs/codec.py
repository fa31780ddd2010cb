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
klt             groups of components (groups.py);       the same
                without parameters as fp16
=============== ======================================= =====================================

The ranges in brackets travel only where the spec has none for that tensor, and never packed. Camera
frames as pictures are the business of pictures.py.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgekit.errors import ConfigError, LinkError
from edgekit.spec.codec import (
    PICTURES,
    RANGE_LIMIT,
    ChannelBasis,
    CodecSpec,
    Components,
)
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs import steps
from edgekit.transport.codecs.arrays import DTYPES, as_half, travelling
from edgekit.transport.codecs.groups import Writer, Written, choose, groups_objection, read_groups
from edgekit.transport.codecs.headers import check_lengths, header_objection, refusal
from edgekit.transport.codecs.klt import Klt
from edgekit.transport.codecs.packings import make_packer
from edgekit.transport.codecs.port import Buffer, Codec, CodedHeader, CodedTensor, Encoded

Form = Literal["raw", "half", "steps", "klt"]
_Sent = tuple[CodedTensor, Buffer]

_FLOATS = ("float64", "float32", "float16")
_RANGE_BYTES = 8
_CALIBRATE = "calibrate the codec again with this model"


def make_codec(spec: CodecSpec) -> Codec:
    """The codec that ``spec`` describes. Raises: ConfigError if its library is not installed."""
    if spec.element not in PICTURES:
        return _Codec(spec)
    try:
        # A device that sends no pictures needs no OpenCV.
        from edgekit.transport.codecs.pictures import PictureCodec
    except ImportError:
        raise ConfigError(
            f"codec {spec.name!r} needs the Python package opencv, which is not installed here",
            hint="pip install opencv-python-headless, or send the frames raw",
        ) from None
    return PictureCodec(spec)


class _Codec:
    def __init__(self, spec: CodecSpec) -> None:
        self._spec = spec
        # Asked for with every frame; the spec works them out each time.
        self._name, self._digest = spec.name, spec.digest
        self._accepted: tuple[CodedHeader, int] | None = None
        self._packer = make_packer(spec.packing)
        self._ranges = {one.name: steps.calibrated(one) for one in spec.ranges}
        transforms: tuple[ChannelBasis | Components, ...] = (*spec.bases, *spec.components)
        self._klts = {one.name: Klt(one) for one in transforms}

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    # There.

    def encode(self, tensors: Mapping[str, Array], *, budget_bytes: int | None = None) -> Encoded:
        coded: dict[str, _Sent] = {}
        grouped: dict[str, tuple[TensorSpec, Array]] = {}
        for name, given in tensors.items():
            spec, array = travelling(name, np.asarray(given))
            if name in self._klts and self._form(spec) == "klt":
                grouped[name] = spec, array
            else:
                coded[name] = self._encode_one(spec, array)
        if grouped:
            coded |= self._encode_groups(grouped, coded, budget_bytes)
        header = CodedHeader(
            codec=self._name,
            digest=self._digest,
            tensors=tuple(coded[name][0] for name in tensors),
        )
        return Encoded(header=header, buffers=tuple(coded[name][1] for name in tensors))

    def _encode_groups(
        self,
        grouped: Mapping[str, tuple[TensorSpec, Array]],
        others: Mapping[str, _Sent],
        budget_bytes: int | None,
    ) -> dict[str, _Sent]:
        """The tensors that travel as components, in what the others leave of the budget."""
        writers = [self._writer(*given) for given in grouped.values()]
        if budget_bytes is not None:
            budget_bytes -= sum(tensor.nbytes for tensor, _ in others.values())
        chosen = choose(writers, budget_bytes)
        return {
            name: _joined(spec, written)
            for (name, (spec, _)), written in zip(grouped.items(), chosen, strict=True)
        }

    def _writer(self, spec: TensorSpec, array: Array) -> Writer:
        """What writes the principal components of a tensor."""
        if why := self._channel_objection(spec):
            raise ConfigError(why, hint=_CALIBRATE)
        klt = self._klts[spec.name]
        return Writer(klt.quantize(array, self._axis(spec)), klt.step, self._packer)

    def _encode_one(self, spec: TensorSpec, array: Array) -> tuple[CodedTensor, Buffer]:
        head, body = self._element(spec, array)
        data: Buffer = body.reshape(-1).view(np.uint8).data
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
            return b"", as_half(array)
        ranges = self._ranges.get(spec.name)
        if ranges is None:
            ranges = steps.ranges_of(*steps.measured(spec.name, array, axis))
            head = b"".join(part.astype("<f4").tobytes() for part in ranges)
            return head, steps.quantize(array, axis, ranges)
        if why := self._channel_objection(spec):
            raise ConfigError(why, hint=_CALIBRATE)
        steps.measured(spec.name, array, None)
        return b"", steps.quantize(array, axis, ranges)

    def _form(self, spec: TensorSpec) -> Form:
        """What becomes of this tensor."""
        element = self._spec.element
        if element == "fp32" or spec.dtype not in _FLOATS:
            return "raw"
        if element == "klt" and spec.name in self._klts:
            return "klt"
        return "half" if element in ("fp16", "klt") else "steps"

    def _axis(self, spec: TensorSpec) -> int | None:
        return None if self._spec.element == "uint8" else steps.channel_axis(spec.shape)

    def _channel_count(self, spec: TensorSpec) -> int:
        axis = self._axis(spec)
        return 1 if axis is None else spec.shape[axis]

    def _channel_objection(self, spec: TensorSpec) -> str:
        """How the calibrated parameters of a tensor do not fit it; empty if they do."""
        form, wanted = self._form(spec), self._channel_count(spec)
        calibrated = wanted
        if form == "klt":
            calibrated = self._klts[spec.name].channel_count or wanted
        elif form == "steps" and spec.name in self._ranges:
            calibrated = len(self._ranges[spec.name][0])
        if calibrated == wanted:
            return ""
        return (
            f"codec {self._name!r} was calibrated for {calibrated} channels of tensor "
            f"{spec.name!r}, not for {wanted} of the shape {list(spec.shape)}"
        )

    # And back.

    def check(self, header: CodedHeader, *, cap_bytes: int) -> None:
        # Headers of codecs that do not pack are equal for every frame.
        if self._accepted == (header, cap_bytes):
            return
        reason = header_objection(
            header, name=self._name, digest=self._digest, cap_bytes=cap_bytes
        ) or next(filter(None, map(self._size_objection, header.tensors)), "")
        if reason:
            raise refusal(reason)
        self._accepted = header, cap_bytes

    def _size_objection(self, tensor: CodedTensor) -> str:
        spec = tensor.spec
        if why := self._channel_objection(spec):
            return why
        if (self._form(spec) == "klt") != bool(tensor.groups):
            return f"tensor {spec.name!r} comes in {len(tensor.groups)} groups"
        if tensor.groups:
            why = groups_objection(
                tensor.groups,
                tensor.nbytes,
                self._component_shape(spec),
                is_packing=self._packer is not None,
            )
            return f"tensor {spec.name!r} comes as {why}" if why else ""
        whole = self._head_bytes(spec) + self._body_bytes(spec)
        if tensor.is_packed and self._packer is None:
            return f"tensor {spec.name!r} is packed, which {self._name!r} does not do"
        if tensor.is_packed:
            fits = self._head_bytes(spec) < tensor.nbytes < whole
        else:
            fits = tensor.nbytes == whole
        return "" if fits else f"tensor {spec} cannot take {tensor.nbytes} bytes"

    def decode(
        self, header: CodedHeader, buffers: Sequence[Buffer], *, cap_bytes: int
    ) -> dict[str, Array]:
        self.check(header, cap_bytes=cap_bytes)
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        check_lengths(header, views)
        return {
            tensor.spec.name: self._decode_one(tensor, view)
            for tensor, view in zip(header.tensors, views, strict=True)
        }

    def _decode_one(self, tensor: CodedTensor, buffer: memoryview) -> Array:
        spec, dtype = tensor.spec, DTYPES[tensor.spec.dtype]
        form = self._form(spec)
        if form == "klt":
            return self._decode_groups(tensor, buffer)
        head_bytes = self._head_bytes(spec) if form == "steps" else 0
        data: Buffer = buffer[head_bytes:]
        if tensor.is_packed and self._packer is not None:
            data = self._packer.unpack(data, self._body_bytes(spec))
        if form in ("raw", "half"):
            sent_dtype = DTYPES["float16"] if form == "half" else dtype
            array = np.frombuffer(data, sent_dtype).reshape(spec.shape)
            # Whoever gets it may write to it.
            if form == "raw" and array.flags.writeable and array.flags.aligned:
                return array
            return array.astype(dtype)
        coded = np.frombuffer(data, np.uint8).reshape(spec.shape)
        ranges = self._ranges.get(spec.name)
        if ranges is None:
            ranges = _sent_ranges(spec.name, buffer[:head_bytes])
        return steps.restore(coded, self._axis(spec), ranges, dtype)

    def _decode_groups(self, tensor: CodedTensor, buffer: memoryview) -> Array:
        spec = tensor.spec
        whole = read_groups(buffer, tensor.groups, self._component_shape(spec), self._packer)
        klt = self._klts[spec.name]
        return klt.restore(whole, spec.shape, self._axis(spec), DTYPES[spec.dtype])

    def _head_bytes(self, spec: TensorSpec) -> int:
        if self._form(spec) != "steps" or spec.name in self._ranges:
            return 0
        return _RANGE_BYTES * self._channel_count(spec)

    def _body_bytes(self, spec: TensorSpec) -> int:
        """Before packing."""
        per_element = {"raw": spec.nbytes // spec.element_count, "half": 2, "steps": 1}
        return per_element[self._form(spec)] * spec.element_count

    def _component_shape(self, spec: TensorSpec) -> tuple[int, int]:
        """(components, places) of a klt tensor."""
        axis = self._axis(spec)
        before, _, after = steps.layout(spec.shape, axis)
        return self._klts[spec.name].component_count(spec.shape, axis), before * after


def _joined(spec: TensorSpec, chosen: Sequence[Written]) -> tuple[CodedTensor, Buffer]:
    """The groups of a tensor that are sent, as one run of bytes."""
    data = b"".join(written.data for written in chosen)
    groups = tuple(written.group for written in chosen)
    return CodedTensor(spec=spec, nbytes=len(data), groups=groups), data


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
