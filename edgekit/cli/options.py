"""Options that several verbs share, parsed once."""

from pathlib import Path

from edgekit.errors import ConfigError
from edgekit.spec.base import load
from edgekit.spec.fleet import Device, Fleet, local_fleet
from edgekit.spec.fusion import FusionRule, parse_strategy
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


def fusion_rules(
    strategies: tuple[str, ...], exceptions: tuple[str, ...], fleet: Fleet
) -> tuple[FusionRule, ...] | None:
    """``--strategy`` and ``--at`` options as rules, weakest first; None for ``--strategy none``.

    Raises: ConfigError naming the option that cannot be read.
    """
    if "none" in strategies:
        if len(strategies) > 1 or exceptions:
            raise ConfigError(
                "--strategy none leaves no block to choose for",
                hint="leave out the other --strategy and --at options",
            )
        return None
    rules = []
    for text in strategies:
        device, equals, name = text.rpartition("=")
        rules.append(
            FusionRule(
                strategy=parse_strategy(name), device=_known(device, fleet) if equals else "*"
            )
        )
    for text in exceptions:
        where, equals, name = text.rpartition("=")
        device, colon, blocks = where.partition(":")
        if not colon or device not in _names(fleet):  # a block's name may hold a colon
            device, blocks = "*", where
        if not equals or not blocks:
            raise ConfigError(f"--at {text!r} names no blocks", hint="write it like --at 0-5=S3+Ss")
        rules.append(FusionRule(strategy=parse_strategy(name), blocks=blocks, device=device))
    return tuple(rules)


def _names(fleet: Fleet) -> list[str]:
    return [device.name for device in fleet.device]


def _known(device: str, fleet: Fleet) -> str:
    if device not in _names(fleet):
        raise ConfigError(
            f"--strategy names the device {device!r}, which the fleet does not have",
            hint=f"use one of {', '.join(_names(fleet))}",
        )
    return device


def _device(text: str) -> Device:
    name, _, speed = text.partition("=")
    try:
        return Device(name=name.strip(), relative_speed=float(speed or 1.0))
    except ValueError:
        raise ConfigError(
            f"--devices: {speed!r} is not a speed", hint="write --devices 2 or camera=1,gateway=4"
        ) from None


def float_names(text: str) -> tuple[str, ...]:
    """``--keep-float``: "auto", "none", or names of operators with or without auto."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or ("none" in names and len(names) > 1):
        raise ConfigError(
            f"--keep-float {text!r} is neither auto nor none nor names",
            hint="write auto, none, NAME,NAME or auto,NAME",
        )
    return names
