"""Parse and print quantities with units; the only place where text becomes SI numbers.

In: text such as "100 Mbit/s", "25.6 GB/s", "2 ms", "640x400".  Out: plain SI floats and ints.
k, M, G are powers of 1000 (as network and memory vendors use them); Ki, Mi, Gi of 1024.
"""

import re

from edgekit.errors import ConfigError

_PREFIX = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "m": 1e-3,
    "u": 1e-6,
    "n": 1e-9,
}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_LARGEST = 1e30
"""No quantity of any device; beyond it prefixes overflow to infinity."""
_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z/]*)\s*$")


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    match = _QUANTITY.match(text)
    if match is None or float(match[1]) > _LARGEST:
        raise ConfigError(
            f"{what} {text!r} is not a number with a unit", hint=f"write it like {example!r}"
        )
    return float(match[1]), match[2]


def _scaled(text: str, what: str, example: str, units: dict[str, float]) -> float:
    number, unit = _split(text, what, example)
    for base, factor in sorted(units.items(), key=lambda item: -len(item[0])):
        if unit.endswith(base):
            prefix = unit[: len(unit) - len(base)]
            scale = _PREFIX.get(prefix) or _BINARY.get(prefix)
            if scale is not None:
                return number * scale * factor
    raise ConfigError(
        f"{what} {text!r} has the unknown unit {unit!r}",
        hint=f"write it like {example!r} (units: {', '.join(units)})",
    )


def parse_bandwidth(text: str) -> float:
    """Bandwidth in bytes per second from "100 Mbit/s", "11.9 MB/s" or "25.6 GB/s"."""
    units = {"bit/s": 1 / 8, "bps": 1 / 8, "B/s": 1.0}
    return _scaled(text, "bandwidth", "100 Mbit/s", units)


def parse_rate(text: str) -> float:
    """Arithmetic per second from "472 Gflop/s" or, for integers, "21 Top/s"."""
    return _scaled(text, "compute rate", "472 Gflop/s", {"flop/s": 1.0, "op/s": 1.0})


def parse_duration(text: str) -> float:
    """Duration in seconds from "2 ms", "13ms" or "1.5 s"."""
    return _scaled(text, "duration", "2 ms", {"s": 1.0})


def parse_size(text: str) -> int:
    """Memory or file size in bytes from "512 MiB" or "4 GB"."""
    return round(_scaled(text, "size", "512 MiB", {"B": 1.0}))


def parse_shape(text: str) -> tuple[int, ...]:
    """Shape from "1x3x416x416".

    Raises: ConfigError unless every dimension is a positive whole number.
    """
    try:
        dims = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        dims = ()
    if not dims or min(dims) < 1:
        raise ConfigError(
            f"shape {text!r} is not made of positive whole numbers",
            hint="write it like '1x3x416x416'",
        )
    return dims


def format_bytes(count: float) -> str:
    """Bytes for people: "519.2 kB". Decimal, as links are."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def format_count(count: float, unit: str = "") -> str:
    """A large count for people: "243.0 M" or, with a unit, "243.0 Mflop"."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.1f} {prefix}{unit}"
    return f"{count:.0f} {unit}".rstrip()


def format_duration(seconds: float) -> str:
    """Seconds for people: "12.3 ms"."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
