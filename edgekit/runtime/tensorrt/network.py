"""An ONNX file as a TensorRT network, or the operators that TensorRT refuses.

In: a Library and the path of an ONNX file.  Out: a parsed network; or Refusals, each naming its
operator and node.  Parsing needs no GPU.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceError, ModelError
from edgekit.runtime.tensorrt.library import Library, Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One node that TensorRT does not take."""

    operator: str
    """ONNX name; empty if the file as a whole was refused."""
    node: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.operator} {self.node!r}" if self.operator else "the file"
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A network with what must outlive it."""

    library: Library
    messages: Messages
    builder: Any
    network: Any
    parser: Any


def parse_onnx(library: Library, path: Path, *, strong: bool) -> Parsed:
    """Raises: ModelError naming the refused operators; DeviceError if TensorRT does not start."""
    parsed, refusals = _parse(library, path, strong=strong)
    if refusals:
        more = f" and {len(refusals) - 3} more" if len(refusals) > 3 else ""
        raise ModelError(
            f"{library.label} refuses {path.name}: {'; '.join(map(str, refusals[:3]))}{more}",
            hint="run it with ONNX Runtime, cut the model elsewhere, or replace the operator",
        )
    return parsed


def refusals_of(library: Library, path: Path) -> tuple[Refusal, ...]:
    """What ``library`` objects to in the ONNX file at ``path``; empty if nothing.

    Raises: DeviceError if TensorRT does not start.
    """
    return _parse(library, path, strong=True)[1]


def _parse(library: Library, path: Path, *, strong: bool) -> tuple[Parsed, tuple[Refusal, ...]]:
    module, messages = library.module, Messages(library)
    if hasattr(module, "init_libnvinfer_plugins"):
        module.init_libnvinfer_plugins(messages.logger, "")
    try:
        builder = module.Builder(messages.logger)
        network = builder.create_network(library.network_flags(strong=strong))
        parser = module.OnnxParser(network, messages.logger)
    except Exception as error:  # noqa: BLE001 - pybind raises bare errors
        said = messages.last() or " ".join(str(error).split())
        raise DeviceError(
            f"{library.label} does not start: {said}",
            hint="check the driver with `edgekit doctor`",
        ) from None
    is_parsed = parser.parse_from_file(str(path))
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    refusals = [_refusal(error) for error in errors]
    if not refusals and not (is_parsed and network.num_outputs):  # protobuf swallows much
        reason = messages.last() or ("it says no reason" if not is_parsed else "no model is in it")
        refusals = [Refusal(operator="", node="", reason=reason)]
    return Parsed(library, messages, builder, network, parser), tuple(refusals)


def _refusal(error: Any) -> Refusal:
    """From a ParserError; TensorRT 8.5's knows no operators, its text does."""

    def ask(name: str) -> str:
        method = getattr(error, name, None)
        return str(method()) if method is not None else ""

    reason = " ".join(ask("desc").split())[:300]
    return Refusal(
        operator=ask("node_operator"), node=ask("node_name") or _node_number(error), reason=reason
    )


def _node_number(error: Any) -> str:
    number = error.node() if hasattr(error, "node") else -1
    return f"#{number}" if number >= 0 else ""
