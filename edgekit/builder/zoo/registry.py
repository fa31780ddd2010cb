"""The networks of the zoo by name: what a checkpoint's architecture and a user's word stand for.

In:  a name and the fields of its configuration.  Out: the network, in training form.
A network's module is imported when it is asked for, not before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from edgekit.errors import ModelError

Task = Literal["classifier", "detector"]
_ZOO = "edgekit.builder.zoo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one name becomes a network: its class, and the dataclass of its keyword arguments.

    Both are written ``file:name``, the file being one of this folder.
    """

    name: str
    module: str
    config: str = "classifier:ClassifierConfig"
    task: Task = "classifier"

    @property
    def module_type(self) -> type[nn.Module]:
        """The network's class."""
        return _imported(self.module)

    @property
    def config_type(self) -> type[Any]:
        """The dataclass of its configuration."""
        return _imported(self.config)

    def is_made(self, network: nn.Module) -> bool:
        """True if ``network`` is one of this name."""
        kind = type(network)
        return f"{kind.__module__}:{kind.__qualname__}" == f"{_ZOO}.{self.module}"


_ALL = (
    Architecture(
        name="table6-detector",
        module="table6:Table6Detector",
        config="table6:Table6Config",
        task="detector",
    ),
    Architecture(
        name="table6-v8-detector",
        module="table6_v8:Table6V8Detector",
        config="detector:DetectorConfig",
        task="detector",
    ),
    Architecture(name="repvgg-a0", module="repvgg:RepVggA0"),
    Architecture(name="repvgg-a1", module="repvgg:RepVggA1"),
    Architecture(name="repvgg-a2", module="repvgg:RepVggA2"),
    Architecture(name="repvgg-b0", module="repvgg:RepVggB0"),
    Architecture(name="rep-resnet-18", module="rep_resnet:RepResNet18"),
    Architecture(name="rep-resnet-50", module="rep_resnet:RepResNet50"),
    Architecture(name="rep-resnet-101", module="rep_resnet:RepResNet101"),
    Architecture(name="rep-resnet-152", module="rep_resnet:RepResNet152"),
    Architecture(name="mobileone-s0", module="mobileone:MobileOneS0"),
    Architecture(name="rep-googlenet", module="rep_googlenet:RepGoogLeNet"),
    Architecture(name="rep-googlenet-summed", module="rep_googlenet:RepGoogLeNetSummed"),
    Architecture(name="rep-mobilenet-v1", module="rep_mobilenet:RepMobileNetV1"),
    Architecture(name="rep-shufflenet-v1", module="rep_shufflenet:RepShuffleNetV1"),
    Architecture(name="rep-efficientnet-b0", module="rep_efficientnet:RepEfficientNetB0"),
)
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({entry.name: entry for entry in _ALL})
"""Every network of the zoo, by name."""


def architecture(name: str) -> Architecture:
    """The entry of that name. Raises: ModelError with the names that look like it."""
    entry = ARCHITECTURES.get(name)
    if entry is None:
        near = get_close_matches(name, ARCHITECTURES, n=3) or list(ARCHITECTURES)
        raise ModelError(f"there is no network {name!r} in the zoo", hint=f"use {', '.join(near)}")
    return entry


def build(name: str, **fields: Any) -> nn.Module:
    """The network ``name`` with fresh weights, in training form.

    ``fields`` are those of its configuration, such as ``class_count`` and ``seed``.
    Raises: ModelError if the name or a field is unknown, or a value does not fit.
    """
    entry = architecture(name)
    known = set(entry.config_type.__dataclass_fields__)
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ModelError(
            f"{name} has no {', '.join(unknown)}", hint=f"it takes {', '.join(sorted(known))}"
        )
    return entry.module_type(**fields)


def entry_of(network: nn.Module) -> Architecture | None:
    """The entry of a network, or None if it is none of the zoo."""
    return next((entry for entry in _ALL if entry.is_made(network)), None)


def _imported(place: str) -> type[Any]:
    file, _, name = place.partition(":")
    found: type[Any] = getattr(import_module(f"{_ZOO}.{file}"), name)
    return found
