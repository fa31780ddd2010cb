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

_LONG_COUNT = 50


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
    """TOML of a spec value. A field that is None is left out: TOML has no word for it.

    A long list of small tables is written one table a line, as the table it is.
    """
    fields = _without_none(msgspec.to_builtins(value))
    long = {name: rows for name, rows in fields.items() if _is_long(rows)}
    rest = {name: item for name, item in fields.items() if name not in long}
    tables = {name: item for name, item in rest.items() if _is_table(item)}
    plain = {name: item for name, item in rest.items() if name not in tables}
    written = "".join(
        f"{name} = [\n" + "".join(f"    {_inline(row)},\n" for row in rows) + "]\n"
        for name, rows in long.items()
    )
    # Plain fields first: whatever follows the header of a table belongs to it.
    parts = [msgspec.toml.encode(plain), written.encode(), msgspec.toml.encode(tables)]
    return b"\n".join(part for part in parts if part) if long else msgspec.toml.encode(rest)


def _is_table(item: Any) -> bool:
    return isinstance(item, dict) or (
        isinstance(item, list) and bool(item) and all(isinstance(one, dict) for one in item)
    )


def _is_long(rows: Any) -> bool:
    """Many tables that hold nothing but text, numbers and lists of them."""
    if not isinstance(rows, list) or len(rows) < _LONG_COUNT or not _is_table(rows):
        return False
    values = [item for row in rows for item in row.values()]
    flat = [one for item in values for one in (item if isinstance(item, list) else [item])]
    return all(isinstance(one, str | int | float) for one in flat)


def _inline(value: Any) -> str:
    """One value as TOML on one line; its text and numbers are written as in JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_inline(item)}" for name, item in value.items()) + " }"
    return msgspec.json.encode(value).decode()


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
