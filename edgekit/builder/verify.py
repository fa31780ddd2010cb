"""Prove that shards in a chain give the numbers of the whole model.

In: a LoadedModel, the shard files, and inputs.  Out: a VerifyReport: per kind of input, level and
output, how many were equal bit by bit and how far the rest were.
Both sides run in the real runtime, from files, one thread. At level "extended" kernels see the same
layout whole and split, so results are usually bit-equal; "all" is what devices run, and may round
differently. The promise, checked at both: at most 1e-5 of the output's range.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from edgekit.builder.compare import MAX_RELATIVE_ERROR, differences
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.quantize.targets import level_here
from edgekit.bundle.bundle import REPORT_PATH, Bundle
from edgekit.bundle.chain import leaving_of, run_chain
from edgekit.errors import ConfigError, ModelError, TrustError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.agent_config import Optimization
from edgekit.spec.card import ModelCard
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import EndOfSource, open_source

logger = logging.getLogger(__name__)

LEVELS: tuple[Optimization, ...] = ("extended", "all")
_MARGIN = 2.0
"""Of what a build found on its frames: others may be somewhat worse."""
LabelledInput = tuple[str, dict[str, Array]]
"""What kind of input it is ("random", "frame"), and the tensors."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One output, at one level, over all inputs of one kind."""

    kind: str
    level: str
    output: str
    compared_count: int
    bit_equal_count: int
    max_relative_error: float
    noise: float = 0.0
    """Root of the energy of all errors over that of all values: what rounding is measured by."""
    noise_limit: float | None = None
    """Where integers stand for floats, noise is limited; else the largest error, to 1e-5."""

    @property
    def is_within_limit(self) -> bool:
        """False also for a NaN."""
        if self.noise_limit is not None:
            return self.noise <= self.noise_limit
        return self.max_relative_error <= MAX_RELATIVE_ERROR

    @property
    def said(self) -> str:
        """What was found and what is allowed."""
        if self.noise_limit is not None:
            return f"noise {self.noise:.2g} of signal, the limit is {self.noise_limit:.2g}"
        return f"{self.max_relative_error:.1e} of its range, the limit is {MAX_RELATIVE_ERROR:.0e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """All checks of one chain of shards."""

    checks: tuple[OutputCheck, ...]
    notes: tuple[str, ...] = ()
    """What was assumed or changed when the model was loaded."""

    @property
    def is_ok(self) -> bool:
        """Whether every output stayed within the limit (and something was compared at all)."""
        return bool(self.checks) and all(check.is_within_limit for check in self.checks)

    @property
    def exact_level(self) -> str:
        """The level at which whole and split see the same kernels: "extended" if it was tried."""
        levels = [check.level for check in self.checks]
        return "extended" if "extended" in levels or not levels else levels[0]

    def worst(self, level: str) -> float:
        """Largest relative error at ``level``."""
        return max(
            (check.max_relative_error for check in self.checks if check.level == level), default=0.0
        )

    def bit_equal(self, level: str) -> tuple[int, int]:
        """Outputs that were equal bit by bit at ``level``, and outputs compared."""
        chosen = [check for check in self.checks if check.level == level]
        return (
            sum(check.bit_equal_count for check in chosen),
            sum(check.compared_count for check in chosen),
        )

    @property
    def said(self) -> str:
        """Both levels in a sentence."""
        level = self.exact_level
        equal, compared = self.bit_equal(level)
        text = (
            f"{equal} of {compared} outputs bit-equal at level {level}; "
            f"largest relative error {self.worst(level):.1e} there"
        )
        if level != "all" and any(check.level == "all" for check in self.checks):
            text += f", {self.worst('all'):.1e} at level all"
        return text

    def raise_if_bad(self) -> None:
        """Raises: ModelError naming the output that is farthest off."""
        if self.is_ok:
            return
        bad = [check for check in self.checks if not check.is_within_limit]
        if not bad:
            raise ModelError("nothing was compared", hint="give at least one frame")
        worst = max(bad, key=lambda check: check.max_relative_error)
        raise ModelError(
            f"output {worst.output!r} of the chained shards is away from the whole model by "
            f"{worst.said} ({worst.kind} input, level {worst.level})",
            hint="choose another --cut, and report this model",
        )


@dataclass(slots=True)
class _Tally:
    compared_count: int = 0
    bit_equal_count: int = 0
    max_relative_error: float = 0.0
    error_energy: float = 0.0
    energy: float = 0.0

    @property
    def noise(self) -> float:
        """Errors over values; infinite if there are errors and no values."""
        if self.error_energy == 0:
            return 0.0
        return math.sqrt(self.error_energy / self.energy) if self.energy else math.inf


@dataclass(slots=True)
class _Tallies:
    """Sums up the comparisons of one level."""

    level: str
    noise_limit: float | None = None
    by_key: dict[tuple[str, str], _Tally] = field(default_factory=dict)

    def add(self, kind: str, want: dict[str, Array], got: dict[str, Array]) -> None:
        for name, found in differences(want, got).items():
            tally = self.by_key.setdefault((kind, name), _Tally())
            tally.compared_count += 1
            tally.bit_equal_count += found.bit_equal
            tally.max_relative_error = max(tally.max_relative_error, found.relative_error)
            if name in got and got[name].shape == want[name].shape:
                exact = want[name].astype(np.float64)
                tally.energy += float((exact**2).sum())
                tally.error_energy += float(((got[name] - exact) ** 2).sum())

    def checks(self) -> list[OutputCheck]:
        return [
            OutputCheck(
                kind=kind,
                level=self.level,
                output=name,
                compared_count=tally.compared_count,
                bit_equal_count=tally.bit_equal_count,
                max_relative_error=tally.max_relative_error,
                noise=tally.noise,
                noise_limit=self.noise_limit,
            )
            for (kind, name), tally in self.by_key.items()
        ]


def random_labelled(specs: tuple[TensorSpec, ...], seeds: Iterable[int]) -> list[LabelledInput]:
    """Random inputs, one per seed."""
    return [("random", seeded_inputs(specs, seed)) for seed in seeds]


def verify_chain(
    loaded: LoadedModel,
    shards: Sequence[Path],
    leaving: Sequence[Sequence[str]],
    inputs: Sequence[LabelledInput],
    *,
    levels: Sequence[Optimization] = LEVELS,
    original: Path | None = None,
    noise_limits: Mapping[Optimization, float] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare the whole model with the chain of ``shards`` on every one of ``inputs``.

    ``leaving`` names the tensors that leave each device, the model outputs last. The whole is the
    normalised model, or the file ``original``. ``noise_limits``: levels
    at which noise is limited, not the largest error.
    Returns: the report; call its ``raise_if_bad`` to refuse.
    """
    checks: list[OutputCheck] = []
    done, total = 0, len(inputs) * len(levels)
    with whole_file(loaded) as normalised:
        for level in levels:
            whole = OrtSession(original or normalised, optimization=level)
            chain = [OrtSession(path, optimization=level) for path in shards]
            tallies = _Tallies(level, (noise_limits or {}).get(level))
            for kind, tensors in inputs:
                *_, (_, got) = run_chain(chain, leaving, tensors)
                tallies.add(kind, whole.run(tensors), got)
                done += 1
                if progress is not None:
                    progress(f"verify at level {level}", done, total)
            checks += tallies.checks()
    return VerifyReport(checks=tuple(checks), notes=loaded.notes)


@contextmanager
def whole_file(loaded: LoadedModel) -> Iterator[Path]:
    """The normalised model as a file, while it is needed."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "whole.onnx"
        path.write_bytes(to_bytes(loaded.proto))
        yield path


def frame_inputs(
    source: str, card: ModelCard, specs: tuple[TensorSpec, ...], *, frame_count: int
) -> list[LabelledInput]:
    """The first frames of ``source``, preprocessed as ``card`` says.

    Raises: ModelError if the model takes anything but one image; ConfigError or DeviceError if the
    source cannot be read or is empty.
    """
    if len(specs) != 1 or len(specs[0].shape) != 4 or specs[0].dtype != "float32":
        raise ModelError(
            f"frames cannot feed the inputs {', '.join(map(str, specs))}",
            hint="verify this model without --source",
        )
    height_px, width_px = specs[0].shape[2:]
    frames: list[LabelledInput] = []
    opened = open_source(source, mode="every")
    try:
        while len(frames) < frame_count:
            image = opened.read().image
            tensor = preprocess(image, card.input, height_px=height_px, width_px=width_px)
            frames.append(("frame", {specs[0].name: tensor}))
    except EndOfSource:
        logger.info("%s ended after %d frames", source, len(frames))
    finally:
        opened.close()
    if not frames:
        raise ConfigError(f"source {source} has no frame", hint="name another --source")
    return frames


def verify_bundle(
    bundle: Bundle,
    model_path: Path,
    *,
    source: str | None = None,
    frame_count: int = 20,
    seeds: Iterable[int] = range(5),
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare ``bundle`` with the model it was built from, on random input and on real frames.

    The whole is the file itself where the runtime loads it as it is (else, as for .pt, its
    normalised form). Open dimensions are fixed as the bundle's plan says. Shards that were lowered
    may have twice the noise that the build found and wrote down; codecs are not part of it.
    Raises: TrustError if the bundle was built from another file; ConfigError if frames are asked
    for and the bundle has no card. Whether the numbers agree is in the report.
    """
    shapes = {spec.name: spec.shape for spec in bundle.plan.model_inputs}
    loaded = load_model(model_path, input_shapes=shapes)
    if loaded.source_sha256 != bundle.manifest.model_sha256:
        raise TrustError(
            f"{bundle.folder} was built from another file than {model_path} (sha256 "
            f"{bundle.manifest.model_sha256[:16]}…, this one is {loaded.source_sha256[:16]}…)",
            hint="name the file it was built from, or build the bundle again",
        )
    inputs = random_labelled(loaded.inputs, seeds)
    if source is not None:
        if bundle.card is None:
            raise ConfigError(
                f"{bundle.folder} has no model card, so frames cannot be preprocessed",
                hint="build it with --decoder, or verify without --source",
            )
        inputs += frame_inputs(source, bundle.card, loaded.inputs, frame_count=frame_count)
    plan = bundle.plan  # a device that only forwards frames computes nothing
    busy = [index for index, placement in enumerate(plan.placements) if placement.shard]
    levels, noise_limits = _levels_of(bundle)

    def verified(chain: Sequence[int]) -> VerifyReport:
        return verify_chain(
            loaded, [bundle.shard(index) for index in chain],
            [[spec.name for spec in leaving_of(plan, index)] for index in chain], inputs,
            levels=levels, original=_runnable(model_path), noise_limits=noise_limits,
            progress=progress,
        )  # fmt: skip

    if not plan.shares_frames:
        return verified(busy)
    own, others = verified(busy[:1]), verified(busy[1:])
    return VerifyReport(checks=(*own.checks, *others.checks), notes=others.notes)


def _levels_of(
    bundle: Bundle,
) -> tuple[Sequence[Optimization], Mapping[Optimization, float] | None]:
    """At which levels to compare, and how much noise outputs may have there: None is 1e-5.

    Where shards were lowered, the bundle's own report says. Raises: TrustError if it does not.
    """
    is_float = all(placement.precision == "fp32" for placement in bundle.plan.placements)
    is_folded = any(codec.components for codec in bundle.plan.codecs)
    has_report = any(entry.path == REPORT_PATH for entry in bundle.manifest.files)
    if not has_report or not (is_folded or not is_float):
        return LEVELS, None
    try:
        report = msgspec.json.decode(bundle.read(REPORT_PATH))
        noise = float(report["noise"])
        targets = [one["target"] for one in report["shards"] if one["precision"] == "int8"]
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        raise TrustError(
            f"{REPORT_PATH} in {bundle.folder} does not say how far its shards may be off",
            hint="build the bundle again",
        ) from None
    limit = max(MAX_RELATIVE_ERROR, _MARGIN * noise)
    is_exact = all(level_here(recipe_for(name)) == "all" for name in targets)
    levels: tuple[Optimization, ...] = LEVELS if is_exact else ("none",)
    return levels, dict.fromkeys(levels, limit)


def _runnable(model_path: Path) -> Path | None:
    """The file itself if the runtime loads it."""
    if model_path.suffix in {".pt", ".pth"}:
        return None
    try:
        OrtSession(model_path, optimization="none")
    except ModelError as error:
        logger.info("%s is compared in its normalised form: %s", model_path.name, error.what)
        return None
    return model_path
