"""Golden vectors: inputs of one shard and the outputs they must give, for a device's self-test.

In: arrays by name.  Out: the bytes of an .npz file, the same bytes for the same arrays.
Keys are ``in:NAME`` and ``out:NAME``. Stored, not deflated: compressors differ between versions.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.errors import TrustError
from edgekit.spec.tensors import Array

MAX_GOLDEN_BYTES = 8 * 1024 * 1024
"""Of all shards together; a bundle whose vectors are larger ships without them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What goes into one shard and what must come out."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))


def golden_path(index: int) -> str:
    """Where a bundle keeps the golden vectors of shard ``index``."""
    return f"golden/shard-{index}.npz"


def golden_to_bytes(golden: Golden) -> bytes:
    """An .npz archive without clock, user or compressor in it."""
    arrays = {f"in:{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"out:{name}": array for name, array in golden.outputs.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def golden_from_bytes(data: bytes, *, origin: str) -> Golden:
    """Raises: TrustError if ``data`` is not such an archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
            }
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TrustError(
            f"{origin} holds no golden vectors: {error}", hint="build the bundle again"
        ) from None
    return Golden(
        inputs={name[3:]: array for name, array in arrays.items() if name.startswith("in:")},
        outputs={name[4:]: array for name, array in arrays.items() if name.startswith("out:")},
    )
