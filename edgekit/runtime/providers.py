"""Execution providers of ONNX Runtime, by the names that fleets and device profiles use.

In:  a name such as "tensorrt-ep".  Out: what ONNX Runtime must be told, or what is to be installed.
"tensorrt" is none of them: it is TensorRT itself (``runtime.tensorrt``), without ONNX Runtime.
A listed provider is in the library, which does not mean that it starts: ``provider_check`` tries.
Source: ONNX Runtime documentation, CUDA, TensorRT and TensorRT RTX execution providers, and
plugin execution provider libraries.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from edgekit.errors import ConfigError, DeviceError
from edgekit.runtime.provider_check import check_provider
from edgekit.runtime.provider_names import INSTALL, NATIVE, ORT_NAMES
from edgekit.spec.profile import Precision

logger = logging.getLogger(__name__)
_ON_GPU = {"cuda", "tensorrt-ep", "tensorrt-rtx-ep"}
_PLUGINS = {"tensorrt-rtx-ep": "onnxruntime_ep_nv_tensorrt_rtx"}
"""Modules that bring a provider as a library to be registered with a plain ONNX Runtime."""


def available_providers() -> tuple[str, ...]:
    """Providers whose code this ONNX Runtime has, "cpu" first. None of them is started."""
    built = set(ort.get_available_providers())
    return tuple(
        name for name, long_name in ORT_NAMES.items() if long_name in built or _has_plugin(name)
    )


def startable_providers() -> tuple[str, ...]:
    """Those of ``available_providers()`` that were seen to compute, "cpu" first."""
    return tuple(
        name for name in available_providers() if name == "cpu" or check_provider(name).starts
    )


def provider_chain(provider: str) -> list[str]:
    """What ONNX Runtime is given: the provider, and those for operators that it lacks.

    Raises: ConfigError if this ONNX Runtime does not have it, saying what brings it.
    """
    if provider == NATIVE:
        raise ConfigError(
            f"{NATIVE} is TensorRT itself, not a provider of onnxruntime",
            hint="use tensorrt-ep for TensorRT inside onnxruntime",
        )
    found = available_providers()
    if provider not in found:
        known = " or ".join(found)
        hint = INSTALL.get(provider, f"use {known}")
        raise ConfigError(
            f"onnxruntime {ort.__version__} here has no provider {provider!r}; it has {known}",
            hint=hint,
        )
    helper = ["cuda"] if provider == "tensorrt-ep" and "cuda" in found else []
    return list(dict.fromkeys(ORT_NAMES[name] for name in (provider, *helper, "cpu")))


def provider_options(
    provider: str, *, cache: Path, precision: Precision = "fp32", tf32: bool = False
) -> dict[str, str]:
    """What ONNX Runtime's provider is told, as text; nothing for those without choices.

    ``cache`` is a folder for engines and for the times that building them measured. ``precision``
    is that of the model: TensorRT up to 10 must be allowed what the model asks for.
    """
    folder = os.fspath(cache)
    if provider == "cuda":
        return {"use_tf32": str(int(tf32))}
    if provider == "tensorrt-ep":
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
            "trt_fp16_enable": str(int(precision == "fp16")),
            "trt_int8_enable": str(int(precision == "int8")),
        }
    if provider == "tensorrt-rtx-ep":
        return {"nv_runtime_cache_path": folder}
    return {}


def session_with(
    path: Path,
    options: ort.SessionOptions,
    chain: Sequence[str],
    first: dict[str, str],
) -> ort.InferenceSession:
    """A session of ``path`` on ``chain``, whose first provider takes the options ``first``.

    A provider that a plugin brings takes devices instead of a name. Where ONNX Runtime cannot start
    the first one it raises, or only warns: ask the session for its providers.

    Raises: whatever ONNX Runtime raises.
    """
    devices = [] if len(chain) == 1 else _plugin_devices(chain[0])
    if devices:
        options.add_provider_for_devices(devices, first)
        return ort.InferenceSession(os.fspath(path), options)
    settings = [first, *({} for _ in chain[1:])]
    return ort.InferenceSession(
        os.fspath(path),
        options,
        providers=list(chain),
        provider_options=settings,
        enable_fallback=False,
    )


def _plugin_devices(long_name: str) -> "list[ort.OrtEpDevice]":
    """What a plugin offers under this name; nothing for providers that are built in."""
    if long_name in ort.get_available_providers() or not hasattr(ort, "get_ep_devices"):
        return []
    return [one for one in ort.get_ep_devices() if one.ep_name == long_name]


def make_ready(provider: str, cache: Path) -> None:
    """What must happen once before a session: libraries loaded, plugin registered, folder made.

    Raises: ConfigError if the plugin is broken; DeviceError if ``cache`` cannot be written.
    """
    if provider in _ON_GPU:
        _load_cuda()
    if provider in ("tensorrt-ep", "tensorrt-rtx-ep"):
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(
                f"cannot make the folder {cache} for engines: {error.strerror}",
                hint="set XDG_CACHE_HOME to a folder that can be written",
            ) from None
    if _has_plugin(provider) and ORT_NAMES[provider] not in ort.get_available_providers():
        _register(provider)


def _has_plugin(provider: str) -> bool:
    module = _PLUGINS.get(provider)
    registers = hasattr(ort, "register_execution_provider_library")
    return bool(module and registers and importlib.util.find_spec(module))


def _register(provider: str) -> None:
    """Tell ONNX Runtime of the plugin's library; a second time is no error."""
    try:
        plugin = importlib.import_module(_PLUGINS[provider])
        ort.register_execution_provider_library(ORT_NAMES[provider], plugin.get_library_path())
    except Exception as error:  # noqa: BLE001 - the loader and pybind raise what they like
        if "already registered" in str(error).lower():
            return
        raise ConfigError(
            f"the provider {provider} cannot be loaded: {str(error).strip()[:300]}",
            hint=INSTALL[provider],
        ) from None


def _load_cuda() -> None:
    """CUDA and cuDNN that came as Python packages lie where no loader looks."""
    if not hasattr(ort, "preload_dlls"):
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.debug("onnxruntime: %s", line)
