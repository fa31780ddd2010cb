"""Arrays on disk under a key and a digest, so that decoding 60,000 images happens once.

In:  named arrays and the fingerprint of what they were made from.  Out: the same arrays, or None:
whatever is wrong with a cache, the answer is to make it again.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import ConfigError
from edgekit.spec.base import write_atomically

log = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[np.generic]]
_KEY, _DIGEST = "_key", "_sha256"


def save_cached(arrays: Arrays, path: Path, key: str) -> None:
    """Write ``arrays`` to ``path``, whole or not at all. Raises: ConfigError if it cannot."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {**arrays, _KEY: np.array(key), _DIGEST: np.array(_digest(arrays))}
    np.savez(buffer, **named)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(buffer.getvalue(), path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="check the folder and its free space"
        ) from None


def load_cached(path: Path, key: str) -> dict[str, npt.NDArray[np.generic]] | None:
    """The arrays at ``path``, or None if they are absent, damaged or made from something else."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        log.warning("decoding again, %s is damaged: %s", path, error)
        return None
    found_key, found_digest = (str(arrays.pop(name, "")) for name in (_KEY, _DIGEST))
    if found_key != key or found_digest != _digest(arrays):
        log.warning("decoding again, %s does not match its digest", path)
        return None
    return arrays


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
