"""Shards in the precision that was asked for, each calibrated on what really reaches it.

In:  a float model and its cuts, a precision for each shard, a codec for each cut, frames.  Out: a
Chain: one whole graph, its cuts and shards, codecs with their parameters.  Writes nothing but
temporary files.
Shard by shard, first to last: the frames of shard k + 1 have been through the shards before it as
they will run, and through the codecs between them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from edgekit.builder.fold_klt import KltFold, fold_klt
from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.candidates import Candidate, best_candidate
from edgekit.builder.quantize.chain_session import through
from edgekit.builder.quantize.float_model import reloaded
from edgekit.builder.quantize.half import half
from edgekit.builder.quantize.operators import Selection, is_weighted
from edgekit.builder.quantize.ranges import CALIBRATORS
from edgekit.builder.quantize.recipes import Recipe
from edgekit.builder.quantize.sizes import session_of
from edgekit.builder.quantize.stitch import (
    Wire,
    beginning_with_integers,
    dequantized,
    ending_in_integers,
    joined,
    rounded_by_reader,
    wires_of,
)
from edgekit.builder.quantize.targets import level_here
from edgekit.builder.split import split_model
from edgekit.builder.tensorrt_build.form import tensorrt_form
from edgekit.builder.workload import workload_of
from edgekit.bundle.chain import advance
from edgekit.planner.cuts import resolve_cut
from edgekit.spec.codec import CodecRequest, CodecSpec
from edgekit.spec.plan import Cut
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.spec.workload import Workload
from edgekit.transport.codecs import fit_codec, make_codec

Frame = dict[str, Array]
ShowStep = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A float model, and where it is cut."""

    loaded: LoadedModel
    workload: Workload
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ways:
    """How shards are lowered."""

    recipes: tuple[Recipe, ...]
    """Of the device of each shard."""
    selection: Selection | None
    """Of the whole model; None if nothing is to become integers."""
    calibrators: tuple[str, ...] = CALIBRATORS
    codecs: tuple[CodecRequest, ...] = ()
    """Of each cut; empty: everything crosses as it is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """One shard as it was made."""

    precision: Precision
    proto: onnx.ModelProto
    """Reads and makes integers where they cross."""
    wires: Mapping[str, Wire]
    """What leaves it as integers, by the name of the float tensor."""
    candidate: Candidate | None = None
    """Of an int8 shard: its ranges, losses and operators in float."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """Shards that make up one whole graph again."""

    pieces: tuple[Piece, ...]
    whole: LoadedModel
    workload: Workload
    cuts: tuple[Cut, ...]
    shards: tuple[onnx.ModelProto, ...]
    """Together exactly the whole."""
    shipped: KltFold
    """The shards, cuts and codecs that go to the devices: with the transforms of klt codecs in the
    shards, and in TensorRT's form where that is to run them; else the same."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What each shard really is: one without a layer to quantize stays fp32."""
        return tuple(piece.precision for piece in self.pieces)


@dataclass(slots=True)
class _Reached:
    """What has come through the shards so far."""

    frames: list[Frame]
    wires: dict[str, Wire] = field(default_factory=dict)
    codecs: tuple[CodecSpec, ...] = ()
    pieces: tuple[Piece, ...] = ()


def leaving_of(chain: Chain, cuts: Sequence[Cut]) -> list[tuple[str, ...]]:
    """Names of what leaves each shard at ``cuts``, the model's outputs last."""
    outputs = tuple(spec.name for spec in chain.whole.outputs)
    return [*(cut.names for cut in cuts), outputs]


class ShardMaker:
    """Makes chains of one model; what two chains have in common is made once."""

    def __init__(
        self,
        model: Model,
        ways: Ways,
        frames: Sequence[Frame],
        progress: ShowStep = lambda text, done, total: None,
    ) -> None:
        self._model, self._ways, self._progress = model, ways, progress
        self.floats = split_model(model.loaded, model.workload, model.cuts)
        self._start = _Reached(frames=list(frames))
        self._known: dict[tuple[Precision, ...], _Reached] = {(): self._start}
        self._outputs = set(model.loaded.parts.output_names)

    def chain(self, precisions: Sequence[Precision]) -> Chain:
        """The shards in ``precisions``, joined, cut again and with their codecs.

        Raises: ModelError if a shard cannot be lowered, or is not whole when it was.
        """
        wanted = tuple(precisions)
        reached = self._start
        for index in range(len(self.floats)):
            key = wanted[: index + 1]
            if key not in self._known:
                self._known[key] = self._one_more(reached, index, wanted)
            reached = self._known[key]
        return self._joined(reached, wanted)

    def _one_more(self, before: _Reached, index: int, wanted: tuple[Precision, ...]) -> _Reached:
        piece = self._piece(before, index, wanted[index])
        wires = {**before.wires, **piece.wires}
        frames = self._through_shard(before.frames, piece, index, wires)
        codecs = before.codecs
        if index < len(self._model.cuts):
            codec, frames = self._through_cut(frames, index, wanted, wires)
            codecs = (*codecs, codec)
        return _Reached(frames=frames, wires=wires, codecs=codecs, pieces=(*before.pieces, piece))

    # One shard.

    def _piece(self, before: _Reached, index: int, wanted: Precision) -> Piece:
        shard = self.floats[index]
        arriving = {
            value.name: before.wires[value.name]
            for value in shard.graph.input
            if value.name in before.wires
        }
        selection = self._selected(index) if wanted == "int8" else None
        if selection is not None:
            return self._quantized(before.frames, index, selection, arriving)
        if wanted == "fp16":
            sensitive = (
                [one.name for one in self._ways.selection.float] if self._ways.selection else []
            )
            lowered = beginning_with_integers(half(shard, sensitive), arriving)
            return Piece(precision="fp16", proto=lowered, wires={})
        return Piece(precision="fp32", proto=beginning_with_integers(shard, arriving), wires={})

    def _selected(self, index: int) -> Selection | None:
        """What of the shard becomes integers; None if that is no layer at all."""
        whole = self._ways.selection
        if whole is None:
            return None
        nodes = {node.name: node for node in self.floats[index].graph.node}
        integer = tuple(name for name in whole.integer if name in nodes)
        constants = self._model.loaded.parts.constant_names
        if not any(is_weighted(nodes[name], constants) for name in integer):
            return None
        return Selection(
            integer=integer, float=tuple(one for one in whole.float if one.name in nodes)
        )

    def _quantized(
        self,
        frames: Sequence[Frame],
        index: int,
        selection: Selection,
        arriving: Mapping[str, Wire],
    ) -> Piece:
        """Integers of the device's own kind are read as they come, others are rounded again."""
        recipe = self._ways.recipes[index]
        own = "uint8" if recipe.unsigned_activations else "int8"
        alike = {name: one for name, one in arriving.items() if one.integers.dtype == own}
        other = {name: one for name, one in arriving.items() if name not in alike}
        graph = beginning_with_integers(self.floats[index], alike)
        model = reloaded(graph, self._model.loaded)
        names = {spec.name for spec in model.inputs}
        given = [
            {name: array for name, array in dequantized(frame, other).items() if name in names}
            for frame in frames
        ]
        best, _ = best_candidate(
            model, selection, given, recipe, self._ways.calibrators,
            spare=False, progress=self._progress,
        )  # fmt: skip
        specs = {
            value.name: self._model.loaded.activations[value.name]
            for value in best.proto.graph.output
            if value.name not in self._outputs
        }
        wires = wires_of(best.proto, specs)
        proto = ending_in_integers(beginning_with_integers(best.proto, other), wires)
        return Piece(precision="int8", proto=proto, wires=wires, candidate=best)

    # Between two shards.

    def _names_leaving(self, index: int) -> tuple[str, ...]:
        cuts = self._model.cuts
        return cuts[index].names if index < len(cuts) else self._model.loaded.parts.output_names

    def _through_shard(
        self, frames: Sequence[Frame], piece: Piece, index: int, wires: Mapping[str, Wire]
    ) -> list[Frame]:
        if index == len(self._model.cuts):
            return []
        names = [_wire_name(name, wires) for name in self._names_leaving(index)]
        is_integer = piece.precision == "int8"
        level = level_here(self._ways.recipes[index]) if is_integer else "all"
        session = session_of(piece.proto, level)
        return [advance(session, frame, names) for frame in frames]

    def _through_cut(
        self,
        frames: list[Frame],
        index: int,
        wanted: tuple[Precision, ...],
        wires: Mapping[str, Wire],
    ) -> tuple[CodecSpec, list[Frame]]:
        request = self._ways.codecs[index] if self._ways.codecs else CodecRequest()
        if request.is_lossless:
            return CodecSpec(packing=request.packing), frames
        floats = [
            name
            for name in self._names_leaving(index)
            if name not in wires and self._reader_that_rounds(name, wanted) is None
        ]
        floats = [name for name in floats if "float" in self._spec(name).dtype]
        if not floats:
            return CodecSpec(packing=request.packing), frames
        if not frames:
            return CodecSpec(element=request.element, packing=request.packing), frames
        spec = fit_codec(request, [{name: frame[name] for name in floats} for frame in frames])
        codec = make_codec(spec)
        return spec, [
            frame | through(codec, {name: frame[name] for name in floats}) for frame in frames
        ]

    def _spec(self, name: str) -> TensorSpec:
        return self._model.loaded.activations[name]

    def _reader_that_rounds(self, name: str, wanted: Sequence[Precision]) -> int | None:
        """The one shard that reads a float tensor, if that is int8 and rounds it anyway.

        Then the shard before can round it, and the integers cross: unless a codec was asked for
        that makes less of the floats.
        """
        loaded = self._model.loaded
        if name in self._outputs or name in {spec.name for spec in loaded.inputs}:
            return None
        readers = [
            index
            for index, shard in enumerate(self.floats)
            if any(value.name == name for value in shard.graph.input)
        ]
        if len(readers) != 1 or wanted[readers[0]] != "int8" or self._selected(readers[0]) is None:
            return None
        crossed = [k for k, cut in enumerate(self._model.cuts) if name in cut.names]
        if any(self._ways.codecs[k].element == "klt" for k in crossed if self._ways.codecs):
            return None
        return readers[0]

    # All of them.

    def _joined(self, reached: _Reached, wanted: tuple[Precision, ...]) -> Chain:
        model, pieces = self._model, reached.pieces
        whole, workload, cuts, shards = model.loaded, model.workload, model.cuts, self.floats
        if any(piece.precision != "fp32" for piece in pieces):
            proto, changes = joined(
                [piece.proto for piece in pieces], model.loaded.inputs, model.loaded.outputs
            )
            on_wire = self._on_wire(reached, wanted, changes)
            whole = reloaded(proto, model.loaded)
            workload = workload_of(whole)
            cuts = tuple(
                resolve_cut(workload, [on_wire.get(name, name) for name in cut.names])
                for cut in model.cuts
            )
            shards = split_model(whole, workload, cuts)
        codecs = [
            spec if any("float" in one.dtype for one in cut.tensors) else _packed(spec)
            for spec, cut in zip(reached.codecs, cuts, strict=True)
        ]
        shipped = fold_klt(shards, cuts, codecs, inputs=whole.inputs, outputs=whole.outputs)
        return Chain(
            pieces=pieces,
            whole=whole,
            workload=workload,
            cuts=cuts,
            shards=shards,
            shipped=replace(shipped, shards=self._as_taken(shipped.shards)),
        )

    def _as_taken(self, shards: Sequence[onnx.ModelProto]) -> tuple[onnx.ModelProto, ...]:
        """``shards`` in the operators that their devices take."""
        recipes = self._ways.recipes
        return tuple(
            shard if recipe.unsigned_activations else tensorrt_form(shard)
            for shard, recipe in zip(shards, recipes, strict=True)
        )

    def _on_wire(
        self,
        reached: _Reached,
        wanted: tuple[Precision, ...],
        changes: Sequence[Mapping[str, str]],
    ) -> dict[str, str]:
        """The integers that cross in place of float tensors, by name.

        Where the reader takes none of the producer's kind, what crosses are those that it makes of
        them: it would have to round them again anyway.
        """
        wires = reached.wires
        names = {name: wire.integers.name for name, wire in wires.items()}
        for name in sorted({name for cut in self._model.cuts for name in cut.names}):
            reader = self._reader_that_rounds(name, wanted)
            if reader is None or (name in wires and self._takes(reader, wires[name])):
                continue
            found = rounded_by_reader(reached.pieces[reader].proto, [name])
            names |= {key: changes[reader].get(one, one) for key, one in found.items()}
        return names

    def _takes(self, index: int, wire: Wire) -> bool:
        """Whether a shard can begin with the integers of ``wire``: only some know unsigned ones."""
        return self._ways.recipes[index].unsigned_activations or wire.integers.dtype == "int8"


def _packed(spec: CodecSpec) -> CodecSpec:
    """The same packing of whatever crosses."""
    return CodecSpec(packing=spec.packing)


def _wire_name(name: str, wires: Mapping[str, Wire]) -> str:
    return wires[name].integers.name if name in wires else name
