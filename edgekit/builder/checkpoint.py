"""Our own torch file: named weights and the configuration of their network; nothing executable.

In:  a network of the zoo, or a .pt file.  Out: the file, whole or not at all; or the network.
Read with ``weights_only``: a checkpoint from a stranger cannot run code. A digest of all tensors is
checked, so a flipped bit is an error and not a slightly worse network.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgekit.builder.zoo.registry import ARCHITECTURES, Architecture, entry_of
from edgekit.errors import ConfigError, EdgeKitError, ModelError
from edgekit.spec.base import write_atomically

FORMAT = "edgekit-checkpoint"
VERSION = 1
_FIELDS = ("format", "version", "architecture", "config", "sha256", "state_dict")
_AGAIN = "copy the file again, or save it again with edgekit.builder.checkpoint"


def save_checkpoint(module: nn.Module, path: Path) -> None:
    """Write a network of the zoo, in training form, to ``path``. Same weights, same bytes.

    Raises: ModelError if it is no network of the zoo; ConfigError if the file cannot be written.
    """
    entry = entry_of(module)
    if entry is None:
        raise ModelError(
            f"a {type(module).__name__} has no checkpoint format",
            hint=f"save one of {', '.join(ARCHITECTURES)}, or export it to ONNX",
        )
    # Plain layout and one storage each: neither channels_last nor sharing may change the bytes.
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in module.state_dict().items()
    }
    fields_now = asdict(getattr(module, "config"))  # noqa: B009 - every network of the zoo has one
    config = dict(sorted(fields_now.items()))  # the order in a class may change, the bytes not
    content = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": entry.name,
        "config": config,
        "sha256": _digest(entry.name, config, state),
        "state_dict": state,
    }
    buffer = io.BytesIO()  # not the path: torch would write the file's name into the archive
    torch.save(content, buffer)
    try:
        write_atomically(buffer.getvalue(), path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="check the folder and its free space"
        ) from None


def load_checkpoint(path: Path) -> nn.Module:
    """The network saved at ``path``, in training form and evaluation mode.

    Raises: ConfigError if there is no such file; ModelError naming the field that is wrong.
    """
    content = _read(path)
    _check_fields(content, path)
    name = content["architecture"]
    entry = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if entry is None:
        raise ModelError(
            f"{path}: architecture {name!r} is unknown to this version",
            hint=f"update edgekit; it knows {', '.join(ARCHITECTURES)}",
        )
    config = _config(content["config"], entry, path)
    module = entry.module_type(**config)
    _take_state(module, content["state_dict"], path)
    if content["sha256"] != _digest(entry.name, content["config"], module.state_dict()):
        raise ModelError(f"{path}: sha256 does not match config and state_dict", hint=_AGAIN)
    return module.eval()


def _config(value: object, entry: Architecture, path: Path) -> dict[str, Any]:
    """The keyword arguments of the network.

    A field that the file does not have, because it is older than the field, takes its default.
    Raises: ModelError if one is unknown or of another type.
    """
    known = {field.name for field in fields(entry.config_type)}
    needed = {field.name for field in fields(entry.config_type) if field.default is MISSING}
    if not isinstance(value, dict) or not needed <= value.keys() <= known:
        raise ModelError(f"{path}: config does not have the fields {sorted(known)}", hint=_AGAIN)
    try:
        return asdict(msgspec.convert(value, entry.config_type))
    except (msgspec.ValidationError, EdgeKitError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, EdgeKitError) else error
        reason = cause.what if isinstance(cause, EdgeKitError) else str(cause)
        raise ModelError(f"{path}: config is not valid: {reason}", hint=_AGAIN) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read model {path}: {error.strerror}", hint="check the path"
        ) from None
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises a dozen kinds for a damaged archive
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        raise ModelError(
            f"{path} is not a whole checkpoint ({len(data)} bytes): {reason}",
            hint=f"{_AGAIN}; a pickled module or TorchScript file must be exported to ONNX first",
        ) from None
    if not isinstance(content, dict):
        content = {}
    return content


def _check_fields(content: dict[str, Any], path: Path) -> None:
    if content.get("format") != FORMAT:
        raise ModelError(
            f"{path}: format is {content.get('format')!r}, not {FORMAT!r}",
            hint="load the weights into a network of edgekit.builder.zoo and save it with "
            "save_checkpoint, or export your network to ONNX",
        )
    if content.get("version") != VERSION:
        raise ModelError(
            f"{path}: version is {content.get('version')!r}, this EdgeKit reads {VERSION}",
            hint="update edgekit, or save the checkpoint again",
        )
    missing = [name for name in _FIELDS if name not in content]
    unknown = sorted(map(str, set(content) - set(_FIELDS)))
    if missing or unknown:
        raise ModelError(f"{path}: fields missing {missing}, unknown {unknown}", hint=_AGAIN)


def _take_state(module: nn.Module, state: object, path: Path) -> None:
    """Copy the saved tensors into ``module`` if names, shapes and dtypes are those it has."""
    if not isinstance(state, dict):
        raise ModelError(f"{path}: state_dict is a {type(state).__name__}", hint=_AGAIN)
    wanted = module.state_dict()
    odd = sorted(map(str, wanted.keys() ^ state.keys()))
    if odd:
        raise ModelError(
            f"{path}: state_dict and architecture differ in {len(odd)} tensors, first {odd[0]!r}",
            hint="check that config is the one these weights were trained with",
        )
    for name, want in wanted.items():
        got = state[name]
        if not isinstance(got, Tensor) or (got.shape, got.dtype) != (want.shape, want.dtype):
            raise ModelError(
                f"{path}: state_dict[{name!r}] is {_described(got)}, not {_described(want)}",
                hint="check that config is the one these weights were trained with",
            )
    module.load_state_dict(state)


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _digest(architecture: str, config: dict[str, Any], state: Mapping[str, Tensor]) -> str:
    """sha256 over the configuration, then names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(f"{architecture} {sorted(config.items())}\n".encode())
    for name, value in state.items():
        digest.update(f"{name} {_described(value)}\n".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
