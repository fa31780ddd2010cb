"""What every noun of EdgeKit shares: frozen, strict, and saved as JSON or TOML.

In: a path or bytes.  Out: a checked value, or a ConfigError that names the file and the field.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.errors import ConfigError, EdgeKitError


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fact: frozen, keyword-only, unknown fields refused. Derived numbers are properties."""


S = TypeVar("S")


def to_json(value: Any, *, indent: int = 2) -> bytes:
    """Canonical JSON of a spec value: keys sorted, so the same value gives the same bytes."""
    text = msgspec.json.encode(value, order="deterministic")
    return msgspec.json.format(text, indent=indent) + b"\n" if indent else text


def parse_json(data: bytes, kind: type[S], *, origin: str) -> S:
    """The value in ``data``. ``origin`` names the file or topic in errors.

    Raises: ConfigError naming the origin and the field.
    """
    return _decoded(lambda: msgspec.json.decode(data, type=kind), kind, origin)


def parse_toml(data: bytes, kind: type[S], *, origin: str) -> S:
    """As parse_json, from TOML."""
    return _decoded(lambda: msgspec.toml.decode(data, type=kind), kind, origin)


def _decoded(decode: Any, kind: type[S], origin: str) -> S:
    try:
        value: S = decode()
    except EdgeKitError as error:
        raise type(error)(f"{origin}: {error.what}", hint=error.hint) from None
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, EdgeKitError):
            raise type(cause)(f"{origin}: {cause.what}", hint=cause.hint) from None
        raise ConfigError(
            f"{origin} is not a valid {kind.__name__}: {error}",
            hint="edit the field named at the end of the message",
        ) from None
    except (msgspec.DecodeError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{origin} cannot be parsed: {error}", hint="compare it with a file made by edgekit"
        ) from None
    return value


def load(path: Path, kind: type[S]) -> S:
    """The value saved at ``path``, JSON or TOML by its suffix.

    Raises: ConfigError if the file is missing, unreadable or not a valid ``kind``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path") from None
    parse = parse_toml if path.suffix == ".toml" else parse_json
    return parse(data, kind, origin=str(path))


def save(value: Any, path: Path) -> None:
    """Write ``value`` at ``path``, JSON or TOML by its suffix; complete or not at all."""
    write_atomically(to_toml(value) if path.suffix == ".toml" else to_json(value), path)


def to_toml(value: Any) -> bytes:
    """TOML of a spec value. A field that is None is left out: TOML has no word for it."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(value)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def write_atomically(data: bytes, path: Path, *, mode: int = 0o644) -> None:
    """Put ``data`` at ``path`` whole: temporary file beside it, sync, swap; else the old stays."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
