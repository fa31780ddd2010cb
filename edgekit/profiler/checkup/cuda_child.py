"""A process of its own that asks the CUDA driver which devices there are.

Out: one JSON object on standard output: ``driver`` (the CUDA version that it serves), ``devices``
(name and compute capability) and ``reason`` why there is none.
Source: CUDA Driver API (cuInit, cuDeviceGetAttribute 75 and 76, CUDA_ERROR numbers).
"""

import contextlib
import ctypes
import json
import sys

_DRIVERS = ("libcuda.so.1", "libcuda.so")
_MAJOR, _MINOR = 75, 76
_NAME_BYTES = 128
_ERRORS = {
    3: "the driver is not initialised",
    34: "only the stub of the driver is there: start the container with the GPU",
    35: "the driver is older than the CUDA library",
    100: "the driver finds no device",
    101: "the device number is not valid",
    803: "the driver and its kernel module are of different versions: reboot",
    804: "the driver is older than the CUDA library",
    999: "the driver failed without saying why",
}


def load(names: tuple[str, ...]) -> "tuple[ctypes.CDLL | None, str]":
    """The first of these libraries that loads, and its name; or why none does."""
    reason = ""
    for name in names:
        try:
            return ctypes.CDLL(name), name
        except OSError as error:
            reason = reason or str(error)
    return None, reason


def facts(driver: "ctypes.CDLL") -> tuple[str, list[tuple[str, str]], str]:
    """CUDA version, devices, and why there are none."""
    if code := driver.cuInit(0):
        return "", [], _ERRORS.get(code, f"the driver answers with error {code}")
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    devices = []
    for index in range(count.value):
        name, device = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, _NAME_BYTES, device)
        parts = []
        for attribute in (_MAJOR, _MINOR):
            number = ctypes.c_int()
            driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
            parts.append(str(number.value))
        devices.append((name.value.decode("utf-8", "replace"), ".".join(parts)))
    text = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return text, devices, "" if devices else _ERRORS[100]


def main() -> None:
    """Print what was found."""
    driver, name = load(_DRIVERS)
    version, devices, reason = facts(driver) if driver is not None else ("", [], name)
    answer = {"driver": version, "devices": devices, "reason": reason}
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
