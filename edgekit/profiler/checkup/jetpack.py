"""Which JetPack a Jetson runs, and which packages suit it.

In:  the text of /etc/nv_tegra_release and of the device tree.  Out: facts, or None elsewhere. Pure.
Source: NVIDIA JetPack archive and Jetson Linux release notes; onnxruntime's release files for the
last version of each Python. Nothing here has been tried on a physical Jetson.
"""

import re
from dataclasses import dataclass

_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_CHIPS = {
    "tegra210": ("Jetson Nano or TX1", "5.3"),
    "tegra186": ("Jetson TX2", "6.2"),
    "tegra194": ("Jetson Xavier", "7.2"),
    "tegra234": ("Jetson Orin", "8.7"),
    "tegra264": ("Jetson Thor", "11.0"),
}
"""Family and compute capability, by what the device tree is compatible with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JetPack:
    """What NVIDIA's image for a Jetson brings along."""

    name: str
    python: str
    cuda: str
    tensorrt: str
    onnxruntime: str
    """The last one for its Python that the package index has, CPU only."""
    advice: str
    """How a shard gets to run there."""

    @property
    def cudart_package(self) -> str:
        """Of the system, with the CUDA runtime."""
        return f"cuda-cudart-{self.cuda.replace('.', '-')}"


_SYSTEM = (
    "sudo apt install python3-libnvinfer libnvonnxparsers-dev && "
    "python3 -m venv --system-site-packages ~/edgekit"
)
_OWN_PYTHON = "run the agent in a container with Python 3.10 or newer; its shards run on the CPU"
_JETPACK_4 = JetPack(
    name="JetPack 4", python="3.6", cuda="10.2", tensorrt="8.2", onnxruntime="", advice=_OWN_PYTHON
)
_JETPACK_5 = JetPack(
    name="JetPack 5", python="3.8", cuda="11.4", tensorrt="8.5", onnxruntime="1.19.2",
    advice=_OWN_PYTHON,
)  # fmt: skip
_JETPACK_6 = JetPack(
    name="JetPack 6", python="3.10", cuda="12.6", tensorrt="10.3", onnxruntime="1.23.2",
    advice=_SYSTEM,
)  # fmt: skip
_JETPACK_7 = JetPack(
    name="JetPack 7", python="3.12", cuda="13.2", tensorrt="10.16", onnxruntime="1.31.1",
    advice=_SYSTEM,
)  # fmt: skip
_BY_MAJOR = {
    32: _JETPACK_4, 34: _JETPACK_5, 35: _JETPACK_5, 36: _JETPACK_6, 38: _JETPACK_7, 39: _JETPACK_7,
}  # fmt: skip


def l4t_release(text: str) -> str:
    """The release of Jetson Linux, such as "36.4.3"; nothing if the text is of none."""
    found = _RELEASE.search(text)
    return f"{found[1]}.{found[2]}" if found else ""


def jetpack_of(release: str) -> JetPack | None:
    """The JetPack of a release of Jetson Linux; None for one that is not known."""
    major = release.split(".")[0]
    return _BY_MAJOR.get(int(major)) if major.isdigit() else None


def chip_of(compatible: str) -> tuple[str, str]:
    """Family and compute capability, from the device tree's list; empty if it is no Jetson."""
    for word in compatible.replace("\0", " ").replace(",", " ").split():
        if word in _CHIPS:
            return _CHIPS[word]
    return "", ""
