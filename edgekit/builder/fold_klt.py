"""Fold the klt codec's transform into the shards on both sides of a cut.

In: shards, their cuts, and the codecs that calibration found.  Out: new shards, cuts and codecs,
and how far the numbers moved by rounding alone.  Pure: what is given stays as it is.
The shard that makes a tensor ends with its principal components, every shard that reads it begins
by going back; what crosses are the components, and the codec only rounds and packs them. A tensor
is folded if it is float32 of four axes, every cut that it crosses has a klt basis of it, and it is
no output of the model; others keep the basis in the codec.
Components that a basis leaves out are lost, so the fold is proved with the basis completed: then it
is a rotation there and back, and the chain must give its old numbers within 1e-5. A model can make
more than that of the last digit of what crosses (YOLOX-nano: 2.5e-5 of its boxes); there the fold
may move its outputs by no more than a few times what noise in that digit does.

Source: the transform is that of ``transport/codecs/klt.py``; folding linear layers into their
neighbours is the algebra of Ding et al., "RepVGG", CVPR 2021, sec. 3.3.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import onnx

from edgekit.builder.compare import MAX_RELATIVE_ERROR, differences
from edgekit.builder.klt_layers import Floats, Transform, give_components, take_components
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.bundle.chain import advance
from edgekit.errors import ConfigError, ModelError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.codec import ChannelBasis, CodecSpec, Components
from edgekit.spec.plan import Cut
from edgekit.spec.tensors import Array, TensorSpec

_SEED = 0
_LAST_DIGIT = 2.0**-22
"""Of a float32: the rounding of two operations."""
_NOISE_MARGIN = 4
_SUFFIX = "_components"


@dataclass(frozen=True, slots=True, kw_only=True)
class KltFold:
    """Shards that give and take principal components, and the cuts and codecs to match."""

    shards: tuple[onnx.ModelProto, ...]
    cuts: tuple[Cut, ...]
    codecs: tuple[CodecSpec, ...]
    relative_error: float
    """Of the outputs, with no component left out and nothing rounded to steps."""
    notes: tuple[str, ...]
    """What became of each tensor at both ends, in words."""


def fold_klt(
    shards: Sequence[onnx.ModelProto],
    cuts: Sequence[Cut],
    codecs: Sequence[CodecSpec],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> KltFold:
    """``shards`` with the transforms of ``codecs``, one per cut, folded in where that can be.

    ``inputs`` and ``outputs`` are those of the model. Cuts whose codec is not klt stay as they are.
    Raises: ConfigError if a basis is of another tensor; ModelError if the fold, with all components
    kept, moves an output by more than rounding can.
    """
    if len(codecs) != len(cuts) or len(shards) != len(cuts) + 1:
        raise ConfigError(
            f"{len(shards)} shards with {len(cuts)} cuts and {len(codecs)} codecs",
            hint="give one codec per cut",
        )
    bases = _foldable(shards, cuts, codecs, outputs)
    if not bases:
        return KltFold(
            shards=tuple(shards),
            cuts=tuple(cuts),
            codecs=tuple(codecs),
            relative_error=0.0,
            notes=(),
        )
    taken = {value.name for shard in shards for value in _tensors(shard)}
    kept = [_transform(spec, basis, taken, is_whole=False) for spec, basis in bases]
    whole = [_transform(spec, basis, taken, is_whole=True) for spec, basis in bases]
    rotated, _ = _apply(shards, whole)
    error = _moved(shards, cuts, rotated, _renamed(cuts, whole), inputs, outputs)
    folded, notes = _apply(shards, kept)
    return KltFold(
        shards=folded,
        cuts=_renamed(cuts, kept),
        codecs=tuple(_without_bases(codec, kept) for codec in codecs),
        relative_error=error,
        notes=notes,
    )


def _foldable(
    shards: Sequence[onnx.ModelProto],
    cuts: Sequence[Cut],
    codecs: Sequence[CodecSpec],
    outputs: Sequence[TensorSpec],
) -> list[tuple[TensorSpec, ChannelBasis]]:
    """Tensors to fold, each with the basis of the first cut that it crosses."""
    made = {value.name for shard in shards for value in shard.graph.output}
    read = {value.name for shard in shards for value in shard.graph.input}
    kept_names = {spec.name for spec in outputs}
    crossing: dict[str, list[ChannelBasis | None]] = {}
    specs: dict[str, TensorSpec] = {}
    for cut, codec in zip(cuts, codecs, strict=True):
        bases = {basis.name: basis for basis in codec.bases}
        for spec in cut.tensors:
            specs[spec.name] = spec
            crossing.setdefault(spec.name, []).append(bases.get(spec.name))
    found = []
    for name, bases_of in crossing.items():
        spec, basis = specs[name], bases_of[0]
        if basis is None or None in bases_of or name in kept_names:
            continue
        if spec.dtype == "float32" and len(spec.shape) == 4 and name in made & read:
            if spec.shape[1] != basis.channel_count:
                raise ConfigError(
                    f"the basis of {name!r} is of {basis.channel_count} channels, the tensor is "
                    f"{spec}",
                    hint="calibrate the codec again with this model",
                )
            found.append((spec, basis))
    return found


def _tensors(shard: onnx.ModelProto) -> list[onnx.ValueInfoProto | onnx.TensorProto]:
    graph = shard.graph
    made = [onnx.ValueInfoProto(name=name) for node in graph.node for name in node.output]
    return [*graph.input, *graph.output, *graph.initializer, *made]


def _transform(
    spec: TensorSpec, basis: ChannelBasis, taken: set[str], *, is_whole: bool
) -> Transform:
    """The transform of one tensor; ``is_whole`` completes its rows to a rotation."""
    mean = np.frombuffer(basis.mean, "<f4").astype(np.float64)
    rows = np.frombuffer(basis.rows, "<f4").astype(np.float64).reshape(-1, mean.size)
    rows = _completed(rows) if is_whole else rows
    name = spec.name + _SUFFIX
    while name in taken:
        name += "_"
    batch, _, height_px, width_px = spec.shape
    shape = (batch, len(rows), height_px, width_px)
    return Transform(
        tensor=spec,
        components=TensorSpec(name=name, dtype="float32", shape=shape),
        rows=rows,
        mean=mean,
    )


def _completed(rows: Floats) -> Floats:
    """Orthonormal rows (k, n) as the first of n."""
    base, _ = np.linalg.qr(rows.T, mode="complete")
    return np.concatenate([rows, base.T[len(rows) :]])


def _apply(
    shards: Sequence[onnx.ModelProto], transforms: Sequence[Transform]
) -> tuple[tuple[onnx.ModelProto, ...], tuple[str, ...]]:
    """All transforms in all shards that make or read their tensors."""
    folded, notes = list(shards), []
    for transform in transforms:
        name = transform.tensor.name
        for index, shard in enumerate(folded):
            for values, change in (
                (shard.graph.output, give_components),
                (shard.graph.input, take_components),
            ):
                if any(value.name == name for value in values):
                    folded[index], note = change(shard, transform)
                    notes.append(f"shard {index}: {note}")
    return tuple(folded), tuple(notes)


def _renamed(cuts: Sequence[Cut], transforms: Sequence[Transform]) -> tuple[Cut, ...]:
    """The cuts with components in the place of tensors."""
    new = {transform.tensor.name: transform.components for transform in transforms}
    return tuple(
        msgspec.structs.replace(
            cut, tensors=tuple(new.get(spec.name, spec) for spec in cut.tensors)
        )
        for cut in cuts
    )


def _without_bases(codec: CodecSpec, transforms: Sequence[Transform]) -> CodecSpec:
    """The codec, told that these tensors come as their components."""
    new = {transform.tensor.name: transform.components.name for transform in transforms}
    return msgspec.structs.replace(
        codec,
        bases=tuple(basis for basis in codec.bases if basis.name not in new),
        components=(
            *codec.components,
            *(
                Components(name=new[basis.name], step=basis.step)
                for basis in codec.bases
                if basis.name in new
            ),
        ),
    )


def _moved(
    shards: Sequence[onnx.ModelProto],
    cuts: Sequence[Cut],
    rotated: Sequence[onnx.ModelProto],
    rotated_cuts: Sequence[Cut],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> float:
    """How far apart both chains are. Raises: ModelError beyond the limit."""
    given = seeded_inputs(tuple(inputs), _SEED)
    last = tuple(spec.name for spec in outputs)
    leaving = [*(cut.names for cut in cuts), last]
    want = _outputs(shards, leaving, given)
    got = _outputs(rotated, [*(cut.names for cut in rotated_cuts), last], given)
    found = differences(want, got)
    worst = max(found, key=lambda name: found[name].relative_error)
    error = found[worst].relative_error
    if error <= MAX_RELATIVE_ERROR:
        return error
    folded = {name for cut in cuts for name in cut.names}
    folded -= {name for cut in rotated_cuts for name in cut.names}
    noisy = differences(want, _outputs(shards, leaving, given, noise_on=folded))
    limit = max(
        MAX_RELATIVE_ERROR, _NOISE_MARGIN * max(one.relative_error for one in noisy.values())
    )
    if not error <= limit:
        raise ModelError(
            f"folding the channel transform moved output {worst!r} by {error:.1e} of its range, "
            f"limit {limit:.1e}",
            hint="cut elsewhere, or use another codec",
        )
    return error


def _outputs(
    shards: Sequence[onnx.ModelProto],
    leaving: Sequence[tuple[str, ...]],
    given: Mapping[str, Array],
    noise_on: AbstractSet[str] = frozenset(),
) -> dict[str, Array]:
    """What leaves the last shard; with noise in the last digit of some tensors that cross."""
    generator = np.random.default_rng(_SEED)
    tensors = dict(given)
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "shard.onnx"
        for shard, names in zip(shards, leaving, strict=True):
            path.write_bytes(to_bytes(shard))
            tensors = advance(OrtSession(path, optimization="extended"), tensors, names)
            for name in sorted(noise_on & tensors.keys()):
                noise = generator.uniform(-_LAST_DIGIT, _LAST_DIGIT, tensors[name].shape)
                tensors[name] = (tensors[name] * (1 + noise)).astype(np.float32)
    return tensors
