"""The klt transform by NumPy in the codec, or folded into the shards: what each adds to a frame."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from edgekit.builder.fold_klt import fold_klt
from edgekit.bundle.chain import advance
from edgekit.runtime.ort import OrtSession
from edgekit.spec.codec import CodecSpec
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import Codec, Encoded, make_codec
from edgekit.transport.codecs.cost import CAP_BYTES
from tests.bench.codecs_rows import CutModel


@dataclass
class Folded:
    """Both ways: the same components cross."""

    found: list[tuple[Detection, ...]]
    """With the folded shards."""
    nbytes: float
    numpy_ms: tuple[float, float]
    folded_ms: tuple[float, float]
    """Added to the first and to the second device by the transform and the codec."""
    notes: tuple[str, ...]


@dataclass
class _Way:
    """Two shards and what is between them."""

    head: OrtSession
    tail: OrtSession
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    codec: Codec

    def first(self, given: Mapping[str, Array]) -> Encoded:
        return self.codec.encode(advance(self.head, given, self.names))

    def second(self, sent: Encoded) -> dict[str, Array]:
        taken = self.codec.decode(sent.header, sent.buffers, cap_bytes=CAP_BYTES)
        return advance(self.tail, taken, self.outputs)


def compare_folded(
    cut_model: CutModel, codec: CodecSpec, images: Sequence[Array], *, repeat_count: int = 3
) -> Folded:
    """Time both, in turns: what each device takes beyond sending floats as they are."""
    loaded, cut, outputs = cut_model.detector.loaded, cut_model.cut, cut_model.outputs
    fold = fold_klt(cut_model.protos, [cut], [codec], inputs=loaded.inputs, outputs=loaded.outputs)
    # As on devices: with all that the runtime can optimise.
    head, tail = (cut_model.session(proto, "all") for proto in fold.shards)
    first, second = (cut_model.session(proto, "all") for proto in cut_model.protos)
    whole = (first, second, cut.names, outputs)
    ways = {
        "raw": _Way(*whole, make_codec(CodecSpec())),
        "numpy": _Way(*whole, make_codec(codec)),
        "folded": _Way(head, tail, fold.cuts[0].names, outputs, make_codec(fold.codecs[0])),
    }
    found, nbytes = [], []
    there: dict[str, list[float]] = {name: [] for name in ways}
    back: dict[str, list[float]] = {name: [] for name in ways}
    for image in images:
        given = cut_model.given(image)
        sent = {name: way.first(given) for name, way in ways.items()}
        nbytes.append(sent["folded"].header.payload_bytes)
        answer = ways["folded"].second(sent["folded"])
        found.append(cut_model.detector.detections(answer))
        _time_in_turns({name: partial(way.first, given) for name, way in ways.items()}, there,
                       repeat_count)  # fmt: skip
        _time_in_turns({name: partial(way.second, sent[name]) for name, way in ways.items()}, back,
                       repeat_count)  # fmt: skip
    return Folded(
        found, median(nbytes), *(_added_ms(name, there, back) for name in ("numpy", "folded")),
        fold.notes,
    )  # fmt: skip


def _added_ms(
    name: str, there: Mapping[str, Sequence[float]], back: Mapping[str, Sequence[float]]
) -> tuple[float, float]:
    """Median over frames of the difference within a frame, at both devices."""
    first, second = (
        1e3 * median(mine - raw for mine, raw in zip(one[name], one["raw"], strict=True))
        for one in (there, back)
    )
    return first, second


def _time_in_turns(
    calls: Mapping[str, Callable[[], object]], into: Mapping[str, list[float]], repeat_count: int
) -> None:
    """The best of some runs of each call."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeat_count):
        for name, call in calls.items():
            started_s = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - started_s)
    for name, taken_s in best.items():
        into[name].append(taken_s)
