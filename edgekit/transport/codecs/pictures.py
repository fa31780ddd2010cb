"""A camera frame as JPEG, WebP or PNG: for a device that films and lets another compute.

In: one or more tensors uint8 (height, width, 3), BGR; or an untrusted header and its bytes.
Out: the other one, or a named refusal.  Pure.
The size that a picture claims is read from its own first bytes and compared with the header before
anything is decoded, so nothing larger than announced is ever allocated. Only what our own encoder
writes is taken: baseline JPEG, plain lossy WebP, 8-bit RGB PNG, whole to the last byte.
"""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from edgekit.errors import LinkError, ModelError
from edgekit.spec.codec import CodecSpec
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.transport.codecs.arrays import travelling
from edgekit.transport.codecs.headers import check_lengths, header_objection, refusal
from edgekit.transport.codecs.port import Buffer, CodedHeader, CodedTensor, Encoded

_COLOURS = 3
_GROWTH_BYTES = 4096
"""A picture of noise is a little larger than its pixels, one of few pixels has a header."""
# Turning by a camera's note would change the shape.
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


class PictureCodec:
    """One picture format at one quality (a ``port.Codec``)."""

    def __init__(self, spec: CodecSpec) -> None:
        self._spec, self._name, self._digest = spec, spec.name, spec.digest
        self._suffix, flag, self._size_of = {
            "jpeg": (".jpg", cv2.IMWRITE_JPEG_QUALITY, _jpeg_size),
            "webp": (".webp", cv2.IMWRITE_WEBP_QUALITY, _webp_size),
            "png": (".png", None, _png_size),
        }[spec.element]
        self._options = [] if flag is None or spec.quality is None else [flag, spec.quality]

    @property
    def spec(self) -> CodecSpec:
        """What both ends agree on."""
        return self._spec

    def encode(self, tensors: Mapping[str, Array], *, budget_bytes: int | None = None) -> Encoded:
        """As in the port; pictures know no budget."""
        coded, buffers = [], []
        for name, given in tensors.items():
            spec, image = travelling(name, np.asarray(given))
            if not _is_frame(spec):
                raise ModelError(
                    f"tensor {spec} cannot be a picture",
                    hint=f"{self._name} is for camera frames, uint8 (height, width, 3); use "
                    "another codec for this cut",
                )
            data = self._written(spec, image)
            coded.append(CodedTensor(spec=spec, nbytes=len(data)))
            buffers.append(data)
        header = CodedHeader(codec=self._name, digest=self._digest, tensors=tuple(coded))
        return Encoded(header=header, buffers=tuple(buffers))

    def _written(self, spec: TensorSpec, image: Array) -> Buffer:
        try:
            done, data = cv2.imencode(self._suffix, image, self._options)
        except cv2.error as error:
            raise self._unwritten(spec, str(error)) from None
        if not done:
            raise self._unwritten(spec, "it does not say why")
        return np.asarray(data, np.uint8).reshape(-1).data

    def _unwritten(self, spec: TensorSpec, why: str) -> ModelError:
        return ModelError(
            f"OpenCV {cv2.__version__} cannot write {spec} as {self._name}: {why[:200]}",
            hint="send smaller frames (jpeg: 65500 px a side, webp: 16383), or use png",
        )

    def check(self, header: CodedHeader, *, cap_bytes: int) -> None:
        """As in the port."""
        reason = header_objection(
            header, name=self._name, digest=self._digest, cap_bytes=cap_bytes
        ) or next(filter(None, map(_frame_objection, header.tensors)), "")
        if reason:
            raise refusal(reason)

    def decode(
        self, header: CodedHeader, buffers: Sequence[Buffer], *, cap_bytes: int
    ) -> dict[str, Array]:
        """As in the port."""
        self.check(header, cap_bytes=cap_bytes)
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        check_lengths(header, views)
        return {
            tensor.spec.name: self._read(tensor.spec, view)
            for tensor, view in zip(header.tensors, views, strict=True)
        }

    def _read(self, spec: TensorSpec, view: memoryview) -> Array:
        claimed = _claimed_size(self._size_of, view)
        if claimed != spec.shape[:2]:
            raise self._corrupt(spec, f"they claim the size {claimed}")
        try:
            image = cv2.imdecode(np.frombuffer(view, np.uint8), _FLAGS)
        except cv2.error as error:
            raise self._corrupt(spec, str(error)[:200]) from None
        if image is None or image.shape != spec.shape or image.dtype != np.uint8:
            raise self._corrupt(spec, "OpenCV cannot read them")
        return np.asarray(image)

    def _corrupt(self, spec: TensorSpec, why: str) -> LinkError:
        return LinkError(
            f"the bytes of {spec} are no {self._spec.element} picture of it: {why}",
            hint="run the same edgekit at both ends",
        )


def _is_frame(spec: TensorSpec) -> bool:
    return spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[2] == _COLOURS


def _frame_objection(tensor: CodedTensor) -> str:
    """How this cannot be a picture; empty if it can."""
    if not _is_frame(tensor.spec) or tensor.is_packed or tensor.groups:
        return f"tensor {tensor.spec} cannot be a picture"
    limit_bytes = tensor.spec.nbytes + tensor.spec.nbytes // 8 + _GROWTH_BYTES
    if 0 < tensor.nbytes <= limit_bytes:
        return ""
    return f"a picture of {tensor.spec} cannot take {tensor.nbytes} bytes"


# The size that a picture claims, (height, width); None if it is none that we write.

Size = tuple[int, int]


def _claimed_size(size_of: Callable[[bytes], Size | None], view: memoryview) -> Size | None:
    try:
        return size_of(bytes(view))
    except IndexError:
        return None


def _jpeg_size(data: bytes) -> Size | None:
    """ITU-T T.81, annex B: markers, each with the length of what follows."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return None
    at = 2
    while data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xC0:  # baseline
            if data[at + 9] != _COLOURS:
                return None
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        is_other_frame = 0xC0 < marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_other_frame or marker == 0xDA or length < 2:
            return None
        at += 2 + length
    return None


def _webp_size(data: bytes) -> Size | None:
    """RFC 9649, sections 2.5 and RFC 6386, 9.1: one lossy chunk."""
    whole = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") == len(data) - 8
    if not whole or data[8:16] != b"WEBPVP8 " or data[23:26] != b"\x9d\x01\x2a":
        return None
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return height, width


def _png_size(data: bytes) -> Size | None:
    """ISO/IEC 15948, 11.2.2: the header comes first, and the end last."""
    is_whole = data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:] == b"IEND\xaeB`\x82"
    if not is_whole or data[12:16] != b"IHDR" or data[24:26] != b"\x08\x02":
        return None
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
