"""Options that several verbs share, parsed once."""

from pathlib import Path

from edgekit.errors import ConfigError
from edgekit.spec.base import load
from edgekit.spec.fleet import Device, Fleet, local_fleet
from edgekit.units import parse_shape


def parse_inputs(values: tuple[str, ...]) -> dict[str, tuple[int, ...]] | None:
    """``--input NAME=1x3x416x416`` options as shapes by name; None if there are none."""
    shapes = {}
    for value in values:
        name, equals, shape = value.rpartition("=")
        if not equals or not name:
            raise ConfigError(
                f"--input {value!r} names no input", hint="write it like --input images=1x3x416x416"
            )
        shapes[name] = parse_shape(shape)
    return shapes or None


def fleet_from(path: Path | None, devices: str) -> Fleet:
    """The fleet of ``--fleet FILE``, or of ``--devices`` ("2", or "camera=1,gateway=4")."""
    if path is not None:
        return load(path, Fleet)
    if devices.isdigit():
        return local_fleet(int(devices))
    return Fleet(name="local", device=tuple(_device(part) for part in devices.split(",")))


def _device(text: str) -> Device:
    name, _, speed = text.partition("=")
    try:
        return Device(name=name.strip(), relative_speed=float(speed or 1.0))
    except ValueError:
        raise ConfigError(
            f"--devices: {speed!r} is not a speed", hint="write --devices 2 or camera=1,gateway=4"
        ) from None
