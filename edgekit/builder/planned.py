"""What a plan asks of a build: which devices in which order, where to cut, which strategies,
precisions and codecs.

In:  a PlanReport and the fleet that it was made for.  Out: a Recipe that ``build_bundle`` follows.
Pure. A bundle is one pipeline, beside which the device with the camera may have the whole model to
answer some frames itself; other farms cannot be one bundle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from edgekit.builder.forwarding import Forwarding
from edgekit.errors import ConfigError, PlanError
from edgekit.planner.scenario import RAW_FRAME
from edgekit.spec.codec import CodecRequest, parse_request
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.fusion import FusionRule, parse_strategy
from edgekit.spec.planning import QDQ_NAME, Candidate, PlanReport
from edgekit.spec.profile import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A plan in the words of a build."""

    fleet: Fleet
    """The devices that work, in the order in which a frame visits them."""
    rule: tuple[str, ...]
    """As ``planner.balance.choose_cuts`` takes it."""
    fusion: tuple[FusionRule, ...]
    model_sha256: str
    notes: tuple[str, ...]
    precision: Mapping[str, Precision]
    """By device."""
    codecs: tuple[CodecRequest, ...]
    """Of each cut; empty: everything crosses as it is."""
    forwarding: Forwarding | None = None
    """Who films and sends frames to the first of ``fleet``, if that one has no camera."""


def recipe_of(report: PlanReport, fleet: Fleet, *, choice: int = 0) -> Recipe:
    """The recipe of the chosen plan, or of alternative ``choice`` (counted from 1).

    Raises: PlanError if the plan is of another fleet, has no such alternative, or cannot be one
    bundle.
    """
    candidate = _candidate(report, choice)
    parts = candidate.shared_by(fleet.source_name)
    own, candidate = parts if parts else (None, candidate)
    _check_buildable(candidate)
    by_name = {device.name: device for device in fleet.device}
    working_names = [*candidate.devices, *(own.devices if own else ())]
    missing = [name for name in working_names if name not in by_name]
    if report.fleet != fleet.name or missing:
        raise PlanError(
            f"the plan was made for the fleet {report.fleet!r}, not for {fleet.name!r}"
            + (f", which has no device {missing[0]!r}" if missing else ""),
            hint="give the fleet file that it was made with, or run edgekit plan again",
        )
    names = [stage.device for stage in candidate.stages]
    working = msgspec.structs.replace(
        fleet,
        device=tuple(by_name[name] for name in names),
        link=tuple(link for link in fleet.link if {link.source, link.target} <= set(names)),
        source="",
        sink="",
    )
    return Recipe(
        fleet=working,
        rule=tuple(",".join(stage.until) for stage in candidate.stages[:-1]) or ("none",),
        fusion=tuple(
            FusionRule(strategy=parse_strategy(stage.strategy), device=stage.device)
            for stage in candidate.stages
        ),
        model_sha256=report.model_sha256,
        notes=_notes(working_names, candidate, fleet),
        precision={
            stage.device: stage.precision for stage in candidate.stages if stage.precision != "fp32"
        },
        codecs=_codecs(candidate),
        forwarding=_forwarding(
            candidate, _folded_as(by_name[own.devices[0]], own) if own else None
        ),
    )


def _folded_as(device: Device, own: Candidate) -> Device:
    """``device`` with the strategy of the plan for all its blocks."""
    return msgspec.structs.replace(device, fusion=own.stages[0].strategy, fusion_at={})


def _candidate(report: PlanReport, choice: int) -> Candidate:
    if choice:
        if not 1 <= choice <= len(report.alternatives):
            raise PlanError(
                f"the plan has {len(report.alternatives)} alternatives, not a number {choice}",
                hint="choose a row of the table that edgekit plan prints",
            )
        return report.alternatives[choice - 1]
    if report.chosen is None:
        raise PlanError(
            "the plan has no solution: no plan keeps all its limits",
            hint="loosen a limit and run edgekit plan again",
        )
    return report.chosen


def _check_buildable(candidate: Candidate) -> None:
    """Refuse what a bundle cannot hold."""
    if candidate.members:
        raise PlanError(
            f"this plan deals frames out over {len(candidate.members)} pipelines, and a bundle is "
            "one pipeline",
            hint="build one of its alternatives with --choice and its number",
        )
    working = {stage.device for stage in candidate.stages}
    filming = {hop.source for hop in candidate.hops if hop.carries == "frame"} & working
    if filming:
        raise PlanError(
            f"in this plan {min(filming)} sends frames on and runs a later shard as well, and an "
            "agent does one of the two",
            hint="build one of its alternatives with --choice and its number",
        )


def _codecs(candidate: Candidate) -> tuple[CodecRequest, ...]:
    """One for each cut. "qdq" are the integers of an int8 shard as they are, packed or not.

    Raises: PlanError for one that no build knows, or if the cuts and hops do not match.
    """
    sent = [hop for hop in candidate.hops if hop.carries == "activations"]
    if len(sent) != len(candidate.stages) - 1:
        raise PlanError(
            f"this plan sends activations over {len(sent)} hops between "
            f"{len(candidate.stages)} shards",
            hint="run edgekit plan again",
        )
    codecs = []
    for hop in sent:
        name, plus, packing = hop.codec.partition("+")
        try:
            codecs.append(parse_request(f"fp32{plus}{packing}" if name == QDQ_NAME else hop.codec))
        except ConfigError as error:
            raise PlanError(
                f"this plan sends activations from {hop.source} to {hop.target} as {hop.codec!r}, "
                f"which a build cannot make: {error.what}",
                hint="run edgekit plan again",
            ) from None
    return () if all(codec == CodecRequest() for codec in codecs) else tuple(codecs)


def _forwarding(candidate: Candidate, own: Device | None) -> Forwarding | None:
    """Raises: PlanError if frames travel in a way that no agent knows."""
    hop = next((one for one in candidate.hops if one.carries == "frame"), None)
    if hop is None:
        return None
    try:
        codec = CodecRequest() if hop.codec == RAW_FRAME else parse_request(hop.codec)
        return Forwarding(device=hop.source, codec=codec, own=own)
    except ConfigError as error:
        raise PlanError(
            f"this plan sends frames from {hop.source} to {hop.target} as {hop.codec!r}, which a "
            f"build cannot make: {error.what}",
            hint="run edgekit plan again",
        ) from None


def _notes(names: Sequence[str], candidate: Candidate, fleet: Fleet) -> tuple[str, ...]:
    working = {*names, *(one.source for one in candidate.hops)}
    idle = [device.name for device in fleet.device if device.name not in working]
    return (f"idle by this plan: {', '.join(idle)}",) if idle else ()
