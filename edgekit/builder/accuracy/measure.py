"""Measure an AccuracyReport, job by job; what a report holds already is not measured again.

In:  an AccuracyRequest, a report to go on with.  Out: a report; each new row is handed on at once.
Every sub-model is scored inside the whole model, the rest in fp32, on pictures that were not
calibrated on; the codecs of activations between two halves in fp32; those of frames before it.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import msgspec

from edgekit.builder.accuracy.codecs import CutModel, cut_model, integer_costs, lossless_twin
from edgekit.builder.accuracy.integers import Calibration, IntegerModel, float_under
from edgekit.builder.accuracy.replay import Recording, Replayed
from edgekit.builder.accuracy.request import AccuracyRequest, Range, operators_of, ranges_between
from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.candidates import ShowStep
from edgekit.builder.quantize.half import half
from edgekit.builder.quantize.operators import select_operators
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.quantize.score import AccuracyDrop, ClassSet, DetectionSet
from edgekit.builder.quantize.sizes import session_of
from edgekit.builder.workload import workload_of
from edgekit.errors import ConfigError, PlanError
from edgekit.runtime.session import Session
from edgekit.spec.accuracy import (
    AccuracyReport,
    CodecLoss,
    FloatOperators,
    FrameLoss,
    ShardLoss,
)
from edgekit.spec.codec import parse_request
from edgekit.spec.planning import QDQ_NAME
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array
from edgekit.spec.workload import Workload
from edgekit.transport.codecs.cost import Measurement

_NOTHING = Measurement(raw_bytes=0, wire_bytes=0.0, element_count=0, encode_s=0.0, decode_s=0.0)
"""Of a cut that no integers cross."""
Keep = Callable[[AccuracyReport], None]
"""Called with the report after every new row."""


@dataclass(frozen=True, slots=True)
class _Job:
    what: str
    run: Callable[[], None]


def measure_accuracy(
    request: AccuracyRequest,
    known: AccuracyReport | None,
    *,
    keep: Keep,
    progress: ShowStep,
) -> AccuracyReport:
    """Everything that ``request`` asks for.

    Raises: ConfigError if ``known`` was measured of something else, or a picture was calibrated
    on; ModelError if the model cannot be quantized.
    """
    work = _Work(request, known, keep, progress)
    jobs = work.jobs()
    started_s = time.monotonic()
    for done, job in enumerate(jobs):
        left_s = (time.monotonic() - started_s) / done * (len(jobs) - done) if done else math.nan
        progress(f"{job.what}{_left(left_s)}", done, len(jobs))
        job.run()
    return work.report


def _left(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f", {seconds:.0f} s left" if seconds < 100 else f", {seconds / 60:.0f} min left"


class _Work:
    """What was measured so far, and what it is measured with."""

    def __init__(
        self,
        request: AccuracyRequest,
        known: AccuracyReport | None,
        keep: Keep,
        progress: ShowStep,
    ) -> None:
        self._request, self._keep, self._progress = request, keep, progress
        _refuse_seen(request)
        self._floats: dict[str, tuple[LoadedModel, Workload]] = {}
        self._integers: dict[str, IntegerModel] = {}
        self._cut_models: dict[tuple[str, ...], CutModel] = {}
        fresh = self._empty() if known is None else known
        if known is not None and known.made_of != self._empty(known.baseline_percent).made_of:
            raise ConfigError(
                f"the file at --out holds measurements of {known.model} on other data or for "
                "another target",
                hint="give another --out, or the same options as before",
            )
        self.report = fresh

    # -- what is scored against --------------------------------------------------------------
    @cached_property
    def _baseline(self) -> tuple[Session, Recording, AccuracyDrop]:
        """The model as it came, run once."""
        session = session_of(self._request.loaded.proto)
        recording = Recording(session)
        drop = self._request.held_out.compare(recording, session, lambda done: None)
        return session, recording, drop

    def _score(
        self, session: Session, held_out: DetectionSet | ClassSet | None = None
    ) -> AccuracyDrop:
        origin, recording, _ = self._baseline
        pictures = held_out or self._request.held_out
        return pictures.compare(Replayed(origin, recording.answers), session, lambda done: None)

    def _empty(self, baseline_percent: float | None = None) -> AccuracyReport:
        asked, drop = self._request, None
        if baseline_percent is None:
            self._progress("score fp32", 0, 0)
            drop = self._baseline[2]
            baseline_percent = 100 * drop.before
        held_out = asked.held_out
        metric = "top-1" if isinstance(held_out, ClassSet) else f"AP50 of {held_out.label}"
        return AccuracyReport(
            model=asked.loaded.name,
            model_sha256=asked.loaded.source_sha256,
            metric=metric,
            baseline_percent=baseline_percent,
            evaluation=asked.evaluation,
            evaluation_count=len(held_out.pictures),
            evaluation_sha256=_digest(held_out.digests),
            calibration=asked.calibration.uri,
            calibration_count=len(asked.calibration.tensors),
            calibration_sha256=_digest(asked.calibration.digests),
            target=asked.target,
            machine=asked.machine,
            versions=dict(asked.versions),
        )

    # -- jobs --------------------------------------------------------------------------------
    def jobs(self) -> list[_Job]:
        """What is not in the report yet."""
        return [*self._shard_jobs(), *self._codec_jobs(), *self._frame_jobs()]

    def _shard_jobs(self) -> Iterable[_Job]:
        done = {one.key for one in self.report.shard}
        for variant in self._request.variants:
            for precision in self._request.precisions:
                ranges: list[Range] = [((), ())]
                if precision == "int8":
                    ranges = ranges_between(variant.workload, self._request.cuts)
                for part in ranges:
                    after, until = (",".join(names) for names in part)
                    if (variant.strategy, precision, after, until) in done:
                        continue
                    words = f"{precision} {variant.strategy} {range_words(after, until)}"
                    yield _Job(words, partial(self._shard, variant.strategy, precision, part))

    def _codec_jobs(self) -> Iterable[_Job]:
        done = {(one.cut, one.codec) for one in self.report.codec}
        for names in self._request.cuts:
            cut = ",".join(names)
            fresh = [one for one in self._request.codecs if (cut, one) not in done]
            if fresh:
                yield _Job(f"codecs at {cut}", partial(self._codecs, names, fresh))
            if "int8" in self._request.precisions and (cut, QDQ_NAME) not in done:
                yield _Job(f"integers at {cut}", partial(self._integer_codecs, names))

    def _frame_jobs(self) -> Iterable[_Job]:
        done = {one.codec for one in self.report.frame}
        for name in self._request.frames:
            if name not in done:
                yield _Job(f"frames as {name}", partial(self._frame, name))

    # -- rows --------------------------------------------------------------------------------
    def _shard(self, strategy: str, precision: Precision, part: Range) -> None:
        model, workload = self._float(strategy)
        names, share = _operators(workload, part)
        if not names:
            return
        if precision == "fp16":
            kept = [one.name for one in select_operators(model).float]
            proto = half(model.proto, kept)
        else:
            made = self._integer(strategy).over(names)
            # Where nothing can be quantized, int8 is fp32.
            proto = model.proto if made is None else made
        drop = self._score(session_of(proto))
        after, until = (",".join(one) for one in part)
        row = ShardLoss(
            strategy=strategy, precision=precision, after=after, until=until, work_share=share,
            drop_pp=drop.drop_pp, low_pp=drop.low_pp, high_pp=drop.high_pp,
        )  # fmt: skip
        self._add(shard=(*self.report.shard, row))

    def _codecs(self, names: tuple[str, ...], codecs: Iterable[str]) -> None:
        cut = self._cut(names)
        if cut is None:
            return
        losses: dict[str, AccuracyDrop | None] = {}
        for text in codecs:
            request = parse_request(text)
            codec, twin = cut.codec(request), lossless_twin(request)
            if codec is None:
                continue
            if twin not in losses:
                losses[twin] = None if codec.is_lossless else self._score(cut.session(codec))
            self._add_codec(cut.cut, text, cut.cost(codec), losses[twin])

    def _integer_codecs(self, names: tuple[str, ...]) -> None:
        strategy = self._request.variants[0].strategy
        made = self._integer(strategy)
        costs = integer_costs(made.best.proto, names, self._inputs)
        for name, cost in costs.items():
            self._add_codec(",".join(names), name, cost, None)
        if not costs:
            self._add_codec(",".join(names), QDQ_NAME, _NOTHING, None)

    def _add_codec(
        self, cut: str, codec: str, cost: Measurement, drop: AccuracyDrop | None
    ) -> None:
        row = CodecLoss(
            codec=codec, cut=cut, element_count=cost.element_count, wire_bytes=cost.wire_bytes,
            encode_s=cost.encode_s, decode_s=cost.decode_s,
            drop_pp=drop.drop_pp if drop else 0.0, low_pp=drop.low_pp if drop else 0.0,
            high_pp=drop.high_pp if drop else 0.0,
        )  # fmt: skip
        self._add(codec=(*self.report.codec, row))

    def _frame(self, name: str) -> None:
        held_out, recode = self._request.held_out, self._request.frames[name]
        pictures = tuple(recode(picture) for picture in held_out.pictures)
        other = replace(held_out, pictures=pictures)
        drop = self._score(self._baseline[0], other)
        row = FrameLoss(codec=name, drop_pp=drop.drop_pp, low_pp=drop.low_pp, high_pp=drop.high_pp)
        self._add(frame=(*self.report.frame, row))

    def _add(self, **fields: object) -> None:
        self.report = msgspec.structs.replace(self.report, **fields)
        self._keep(self.report)

    # -- what is made once -------------------------------------------------------------------
    @cached_property
    def _inputs(self) -> list[dict[str, Array]]:
        name = self._request.loaded.inputs[0].name
        return [{name: tensor} for tensor in self._request.calibration.tensors]

    def _float(self, strategy: str) -> tuple[LoadedModel, Workload]:
        if strategy not in self._floats:
            model = float_under(self._request.loaded, strategy)
            self._floats[strategy] = model, workload_of(model)
        return self._floats[strategy]

    def _integer(self, strategy: str) -> IntegerModel:
        if strategy not in self._integers:
            given = Calibration(
                frames=self._inputs,
                recipe=recipe_for(self._request.target),
                calibrators=self._request.calibrators,
                card=self._request.card,
            )
            made = IntegerModel(self._float(strategy)[0], given, self._progress)
            self._integers[strategy] = made
            row = FloatOperators(
                strategy=strategy,
                calibrator=made.best.calibrator,
                operators=tuple(one.name for one in made.selection.float),
            )
            others = [one for one in self.report.in_float if one.strategy != strategy]
            self._add(in_float=(*others, row))
        return self._integers[strategy]

    def _cut(self, names: tuple[str, ...]) -> CutModel | None:
        """None where this cut of the reference is none of the model that quantization needs."""
        if names not in self._cut_models:
            model, workload = self._float(self._request.variants[0].strategy)
            try:
                self._cut_models = {names: cut_model(model, workload, names, self._inputs)}
            except PlanError:
                return None
        return self._cut_models[names]


def range_words(after: str, until: str) -> str:
    """Such as "of the whole model", "until conv5", "from conv5", "from conv5 to conv9"."""
    if not after and not until:
        return "of the whole model"
    parts = [f"from {after}" if after else "", f"until {until}" if until else ""]
    return " ".join(part for part in parts if part)


def _operators(workload: Workload, part: Range) -> tuple[list[str], float]:
    try:
        return operators_of(workload, part)
    except PlanError:
        return [], 0.0


def _refuse_seen(request: AccuracyRequest) -> None:
    seen = request.held_out.digests & request.calibration.digests
    if seen:
        raise ConfigError(
            f"{len(seen)} of the held-out pictures were calibrated on",
            hint="calibrate on pictures that --evaluate does not hold",
        )


def _digest(digests: frozenset[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
