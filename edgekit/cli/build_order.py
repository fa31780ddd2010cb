"""What ``edgekit build`` is to make: as its options say, or as a plan does."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.builder.build import Check
from edgekit.builder.forwarding import Forwarding, behind_the_camera
from edgekit.builder.planned import recipe_of
from edgekit.builder.quantize.shard_report import Wanted
from edgekit.cli.build_lowering import parse_codecs, parse_precisions
from edgekit.cli.options import fusion_rules
from edgekit.errors import ConfigError, PlanError
from edgekit.profiler.memory import measure_peak_bytes
from edgekit.spec.base import load
from edgekit.spec.codec import CodecRequest
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.fusion import FusionRule
from edgekit.spec.plan import FRAME, Plan
from edgekit.spec.planning import PlanReport
from edgekit.spec.workload import Workload
from edgekit.units import format_bytes, format_count, parse_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Arguments of ``build_bundle``."""

    fleet: Fleet
    rule: tuple[str, ...]
    fusion: Sequence[FusionRule] | None
    model_sha256: str = ""
    check: Check | None = None
    notes: tuple[str, ...] = ()
    precision: Mapping[str, Wanted] = field(default_factory=dict)
    codecs: tuple[CodecRequest, ...] = ()
    forwarding: Forwarding | None = None


def given_order(
    fleet: Fleet,
    cuts: tuple[str, ...],
    strategies: tuple[str, ...],
    exceptions: tuple[str, ...],
    choice: int,
    *,
    precisions: tuple[str, ...] = (),
    codecs: tuple[str, ...] = (),
    share: bool = False,
) -> Order:
    """The order that ``--cut``, ``--strategy``, ``--at``, ``--precision`` and ``--codec`` give.

    ``share``: the device with the camera answers some frames itself.

    Raises: ConfigError naming the option that cannot be read, or ``--choice`` without a plan.
    """
    if choice:
        raise ConfigError("--choice chooses from a plan", hint="add --plan plan.json")
    requests, forwarding = parse_codecs(codecs), None
    if cuts[:1] == (FRAME,):
        forwarding, fleet, requests = behind_the_camera(fleet, requests, shares=share)
        cuts = cuts[1:]
    elif share:
        raise ConfigError(
            "--share deals frames out between the first device and the others, so frames must "
            "leave it whole",
            hint=f"add --cut {FRAME}",
        )
    return Order(
        fleet=fleet,
        rule=cuts or ("auto",),
        fusion=fusion_rules(strategies, exceptions, fleet),
        precision=parse_precisions(precisions, fleet),
        codecs=requests,
        forwarding=forwarding,
    )


def refuse_contradiction(*given: tuple[str, ...]) -> None:
    """Raises: ConfigError if something besides the plan says what the plan says."""
    if any(given):
        raise ConfigError(
            "--plan already says where to cut, what to fold, and in which precision and codec",
            hint="leave out --cut, --share, --strategy, --at, --precision and --codec",
        )


def planned_order(path: Path, fleet: Fleet, choice: int) -> Order:
    """The order that the plan at ``path`` gives, held to the limits of the devices.

    Raises: ConfigError or PlanError as ``spec.base.load`` and ``recipe_of`` do.
    """
    recipe = recipe_of(load(path, PlanReport), fleet, choice=choice)
    limits = {device.name: device for device in fleet.device}

    def check(
        plan: Plan, workload: Workload, parts: Sequence[Sequence[int]], shards: Sequence[bytes]
    ) -> None:
        for index, ops in enumerate(parts):
            device = limits[plan.placements[index].device]
            found = exceeded(device, workload, ops, shards[index])
            if found:
                raise PlanError(
                    f"the shard of {device.name} breaks a limit of its device: {'; '.join(found)}",
                    hint="run edgekit plan again with a tighter limit for it, or raise the limit",
                )

    return Order(
        fleet=recipe.fleet,
        rule=recipe.rule,
        fusion=recipe.fusion,
        model_sha256=recipe.model_sha256,
        check=check,
        notes=recipe.notes,
        precision=recipe.precision,
        codecs=recipe.codecs,
        forwarding=recipe.forwarding,
    )


def exceeded(device: Device, workload: Workload, ops: Sequence[int], shard: bytes) -> list[str]:
    """Which limits of ``device`` its shard exceeds, in words; memory in a process of its own."""
    chosen = [workload.ops[position] for position in ops]
    parameters = sum(op.parameter_count for op in chosen)
    macs = sum(op.work_flop for op in chosen) // 2
    found = []
    if device.max_params and parameters > device.max_params:
        found.append(
            f"{format_count(parameters)} parameters, {format_count(device.max_params)} allowed"
        )
    if device.max_macs and macs > device.max_macs:
        found.append(f"{format_count(macs)} multiply-adds, {format_count(device.max_macs)} allowed")
    if device.memory:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            path = Path(folder) / "shard.onnx"
            path.write_bytes(shard)
            peak_bytes = measure_peak_bytes(path)
        if peak_bytes > parse_size(device.memory):
            found.append(f"{format_bytes(peak_bytes)} of memory, {device.memory} allowed")
    return found
