"""What becomes of a tensor's bytes: nothing, LZ4 or Zstandard.

In: bytes, or untrusted bytes and the size they must unpack to.  Out: bytes of exactly that size, or
a LinkError. Never allocates more than that size, whatever the bytes claim.

Speed and size are those of the two well-kept libraries at their fastest useful setting: LZ4's block
format, and Zstandard level 1, which on activations is as small as the levels above it.
"""

import importlib
import threading
from types import ModuleType
from typing import Protocol

from edgekit.errors import ConfigError, LinkError
from edgekit.spec.codec import Packing
from edgekit.transport.codecs.port import Buffer

ZSTD_LEVEL = 1
SIZE_MAX_BYTES = 2**31 - 1 - 2**24
"""Of one tensor's bytes: LZ4's blocks take no more, and it leaves room for their worst growth."""


class Packer(Protocol):
    """One way to pack bytes; safe to use from several threads."""

    def pack(self, data: Buffer) -> Buffer:
        """The bytes, packed; perhaps longer than they were."""

    def unpack(self, data: Buffer, nbytes: int) -> Buffer:
        """Exactly ``nbytes`` bytes. Raises: LinkError if ``data`` is not these, packed."""


def make_packer(packing: Packing) -> Packer | None:
    """The packer of that name; None where bytes stay as they are.

    Raises: ConfigError if its library is not installed.
    """
    if packing == "lz4":
        return _Lz4(_library("lz4.block", packing))
    if packing == "zstd":
        return _Zstd(_library("zstandard", packing))
    return None


def _library(module: str, packing: Packing) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(
            f"packing {packing} needs the Python package {package}, which is not installed here",
            hint="pip install 'edgekit[codecs]', on every device of the fleet, "
            "or use a codec without it",
        ) from None


class _Lz4:
    def __init__(self, block: ModuleType) -> None:
        self._block = block

    def pack(self, data: Buffer) -> Buffer:
        packed: bytes = self._block.compress(data, mode="fast", store_size=False)
        return packed

    def unpack(self, data: Buffer, nbytes: int) -> Buffer:
        try:
            unpacked: bytearray = self._block.decompress(
                data, uncompressed_size=nbytes, return_bytearray=True
            )
        except (self._block.LZ4BlockError, ValueError) as error:
            raise _corrupt("lz4", str(error)) from None
        if len(unpacked) != nbytes:
            raise _corrupt("lz4", f"{len(unpacked)} bytes came out, not {nbytes}")
        return unpacked


class _Zstd:
    def __init__(self, library: ModuleType) -> None:
        self._library = library
        # Neither half may be used by two threads at once.
        self._own = threading.local()

    def pack(self, data: Buffer) -> Buffer:
        if not hasattr(self._own, "compressor"):
            self._own.compressor = self._library.ZstdCompressor(level=ZSTD_LEVEL)
        packed: bytes = self._own.compressor.compress(data)
        return packed

    def unpack(self, data: Buffer, nbytes: int) -> Buffer:
        if not hasattr(self._own, "decompressor"):
            self._own.decompressor = self._library.ZstdDecompressor()
        try:
            # What the bytes claim to unpack to is allocated at once, so look at it first.
            claimed = self._library.frame_content_size(data)
            if claimed != nbytes:
                raise _corrupt("zstd", f"they claim to be {claimed} bytes, not {nbytes}")
            unpacked: bytes = self._own.decompressor.decompress(
                data, max_output_size=nbytes, allow_extra_data=False
            )
        except self._library.ZstdError as error:
            raise _corrupt("zstd", str(error)) from None
        if len(unpacked) != nbytes:
            raise _corrupt("zstd", f"{len(unpacked)} bytes came out, not {nbytes}")
        return unpacked


def _corrupt(packing: Packing, why: str) -> LinkError:
    return LinkError(
        f"the bytes of a tensor are not {packing}: {why}",
        hint="run the same edgekit at both ends",
    )
