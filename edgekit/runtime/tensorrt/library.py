"""Which TensorRT is here, and what its Python interface can do.

In: names of modules to try.  Out: a Library, or a DeviceError with the reasons in words.
One port over TensorRT 8.5, 8.6, 10, 11 and TensorRT-RTX: what differs is found by looking for it,
never by comparing version numbers, which the two products count differently.

Never imported by an agent before a process of its own has shown that the import is safe: a TensorRT
whose libraries do not fit the driver may end the process that imports it.
"""

import importlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import DeviceError

logger = logging.getLogger(__name__)

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""In the order of trying: the board's own TensorRT knows its GPU best."""
_PRODUCTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_NEEDED = ("Builder", "Runtime", "OnnxParser", "ILogger", "IExecutionContext")
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip
"""numpy's names, by those of TensorRT's DataType."""
_HINT = "install TensorRT for this board (JetPack brings it), or pip install 'edgekit[tensorrt]'"


@dataclass(frozen=True, slots=True)
class Library:
    """One TensorRT, loaded."""

    module: Any
    name: str
    """Of its Python module."""

    @property
    def version(self) -> str:
        """As it says itself, such as "10.3.0"."""
        return str(getattr(self.module, "__version__", "of unknown version"))

    @property
    def label(self) -> str:
        """For people and for cache keys: "TensorRT 10.3.0"."""
        return f"{_PRODUCTS.get(self.name, self.name)} {self.version}"

    @property
    def has_strong_types(self) -> bool:
        """Whether a network may be told to keep the types of the ONNX file."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def has_precision_flags(self) -> bool:
        """Whether a build must or may be told that half precision is allowed (gone in 11)."""
        return hasattr(self.module.BuilderFlag, "FP16")

    @property
    def has_progress(self) -> bool:
        """Whether a build says how far it is."""
        return hasattr(self.module, "IProgressMonitor")

    def network_flags(self, *, strong: bool) -> int:
        """Flags for ``create_network``. Explicit batch is a flag before TensorRT 11 only."""
        flags = self.module.NetworkDefinitionCreationFlag
        bits = 0
        if hasattr(flags, "EXPLICIT_BATCH"):
            bits |= 1 << int(flags.EXPLICIT_BATCH)
        if strong and self.has_strong_types:
            bits |= 1 << int(flags.STRONGLY_TYPED)
        return bits

    def targets(self) -> tuple[str, ...]:
        """Compute capabilities it can build for without such a GPU; empty for all but RTX."""
        kinds = getattr(self.module, "ComputeCapability", None)
        names = [name for name in dir(kinds) if name.startswith("SM") and name[2:].isdigit()]
        return tuple(sorted((f"{name[2:-1]}.{name[-1]}" for name in names), key=float))

    def dtype_name(self, dtype: Any) -> str:
        """numpy's name of a TensorRT DataType. Raises: DeviceError if numpy has none."""
        name = str(getattr(dtype, "name", dtype)).rsplit(".", 1)[-1]
        if name not in _DTYPES:
            raise DeviceError(
                f"the engine takes or gives tensors of type {name}, which numpy lacks",
                hint="end the shard with a Cast to float32",
            )
        return _DTYPES[name]


def find_library(
    names: Sequence[str] = LIBRARIES,
    *,
    load: Callable[[str], Any] = importlib.import_module,
) -> Library:
    """The first of ``names`` that can be imported and used.

    Raises: DeviceError saying for each why not.
    """
    reasons = []
    for name in names:
        try:
            module = load(name)
        except Exception as error:  # noqa: BLE001 - loaders raise anything, the reason is told
            reasons.append(f"{name}: {_why(name, error)}")
            continue
        missing = [part for part in _NEEDED if not hasattr(module, part)]
        if missing:
            reasons.append(f"{name}: it has no {', '.join(missing)}, so it is not whole")
        elif not hasattr(module.IExecutionContext, "execute_async_v3"):
            version = getattr(module, "__version__", "here")
            reasons.append(f"{name}: {version} is older than 8.5, the oldest that EdgeKit uses")
        else:
            return Library(module, name)
    raise DeviceError(f"no TensorRT can be used here ({'; '.join(reasons)})", hint=_HINT)


def _why(name: str, error: Exception) -> str:
    """In words: not there, or there but broken, and by what."""
    if isinstance(error, ModuleNotFoundError) and error.name == name:
        return "not installed"
    text = " ".join(str(error).split()) or "without a word"
    return f"broken, {type(error).__name__}: {text[:200]}"


class Messages:
    """What TensorRT said of late that matters; its own errors are bare return values."""

    def __init__(self, library: Library) -> None:
        base: Any = library.module.ILogger
        said = deque[str](maxlen=8)
        mildest = int(base.WARNING)

        class _Logger(base):  # type: ignore[misc]  # a base known at run time only
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                """Called by TensorRT, from any thread."""
                is_error = int(severity) < mildest
                if is_error:
                    said.append(" ".join(text.split()))
                logger.log(logging.INFO if is_error else logging.DEBUG, "%s", text)

        self.logger = _Logger()
        self._said = said

    def last(self) -> str:
        """The first error since the last look (what follows is mostly its consequence), or ""."""
        text = self._said[0][:300] if self._said else ""
        self._said.clear()
        return text
